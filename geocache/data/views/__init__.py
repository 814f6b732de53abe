"""Views: augmentation that teacher and student see alike, one file a policy."""

from geocache.data.views._base import ViewPolicy, uniform_draws
from geocache.data.views._mix import CELL_ROWS, MixPolicy, cell_bounds
from geocache.data.views._registry import build_policy, policy_names
from geocache.data.views._set import ViewSet, make_views, view_set_of, views_of

__all__ = [
    "CELL_ROWS",
    "MixPolicy",
    "ViewPolicy",
    "ViewSet",
    "build_policy",
    "cell_bounds",
    "make_views",
    "policy_names",
    "uniform_draws",
    "view_set_of",
    "views_of",
]
