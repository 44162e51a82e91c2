"""Speed and memory of the kit, one command per benchmark: python -m experiments.benchmarks.encode."""
