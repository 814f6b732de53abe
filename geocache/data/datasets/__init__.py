"""Data sets, one file each; the file's name is the data set's name."""

from geocache.data.datasets._open import dataset_names, open_dataset

__all__ = ["dataset_names", "open_dataset"]
