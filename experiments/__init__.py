"""Experiments that need a checkout of the repository: the paper's study, pretraining, and benchmarks."""
