"""Benchmarks: ratios taken in one run, A and B in turn, medians. `python -m benchmarks.NAME`.

The process is tuned as the command line tunes its own, before torch loads.
"""

from geocache.process import keep_freed_memory, yield_idle_threads

yield_idle_threads()
keep_freed_memory()
