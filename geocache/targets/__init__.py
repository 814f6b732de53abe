"""Sufficient targets: what each loss needs of the teacher, one file a kind."""

from geocache.targets._base import LocalFeatures, RowStorage, Target
from geocache.targets._parse import LayerTarget, parse_target, target_from_name, target_names

__all__ = [
    "LayerTarget",
    "LocalFeatures",
    "RowStorage",
    "Target",
    "parse_target",
    "target_from_name",
    "target_names",
]
