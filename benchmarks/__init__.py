"""What the kit costs in time and memory, one command each: python -m benchmarks.encode. None of it is installed."""
