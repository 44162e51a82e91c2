"""Code that needs a checkout of the repository: the paper's study, pretraining, benchmarks, and drawing the samples."""
