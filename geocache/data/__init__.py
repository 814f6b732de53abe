"""Data sets, what identifies them, and the caches that are made of them."""
