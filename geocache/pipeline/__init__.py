"""Precompute: what a build has to do, who does it, and the cache that comes of it."""

from geocache.pipeline.build import build
from geocache.pipeline.request import BuildReport, BuildRequest, Failure

__all__ = ["BuildReport", "BuildRequest", "Failure", "build"]
