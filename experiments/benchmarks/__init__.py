"""What the kit costs in time and memory, one command each: python -m experiments.benchmarks.encode. None of it is installed."""
