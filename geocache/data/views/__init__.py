"""Views: augmentation that teacher and student see alike, one file a policy."""

from geocache.data.views._base import ViewPolicy, uniform_draws
from geocache.data.views._registry import build_policy, policy_names

__all__ = ["ViewPolicy", "build_policy", "policy_names", "uniform_draws"]
