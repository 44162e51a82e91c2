"""A synthetic world of emoji scenes whose captions and answers can be scored exactly."""
