"""Draw the samples of data_samples/ from the emoji world: `python -m experiments.world`."""
