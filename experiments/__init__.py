"""Experiments that run from a checkout, beside the package: the paper study, pretraining, benchmarks."""
