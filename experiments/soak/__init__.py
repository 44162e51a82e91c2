"""Kill runs at random moments, feed hostile inputs, and watch the memory of a long run."""
