"""Sufficient targets: what each loss needs of the teacher, one file a kind."""

from geocache.targets._base import LocalFeatures, PlainTarget, RowStorage, Target
from geocache.targets._parse import LayerTarget, parse_target, target_from_name, target_names
from geocache.targets._stored import StoredRows, serving_name

__all__ = [
    "LayerTarget",
    "LocalFeatures",
    "PlainTarget",
    "RowStorage",
    "StoredRows",
    "Target",
    "parse_target",
    "serving_name",
    "target_from_name",
    "target_names",
]
