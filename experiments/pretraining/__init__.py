"""Pretraining of emoji-clip and emoji-llava: `python -m experiments.pretraining`."""
