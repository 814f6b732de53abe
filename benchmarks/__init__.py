"""Benchmarks: ratios taken in one run, A and B in turn, medians. `python -m benchmarks.NAME`."""
