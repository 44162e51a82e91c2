"""How emoji-clip and emoji-llava were trained."""
