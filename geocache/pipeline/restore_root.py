"""Write a lost root document again, from the data set and the teacher that it named."""

from __future__ import annotations

import tempfile
from dataclasses import replace

from geocache.data.objects import Objects
from geocache.data.writer import root_metadata
from geocache.errors import CacheError
from geocache.pipeline.prepare import prepare
from geocache.pipeline.request import BuildRequest

__all__ = ["restore_root"]


def restore_root(objects: Objects, request: BuildRequest | None) -> None:
    """Write the root document that the request's build would have written.

    Raises CacheError without a request, or when its key is not the one that the folder's name says.
    """
    name = str(objects.root).rstrip("/").rpartition("/")[2].removesuffix(".zarr")
    if request is None:
        raise CacheError(
            "the root of a cache must be told again when it is damaged, got no data set or no "
            f"teacher ({objects.root}). Give --dataset, --teacher, --weights and what else the "
            "build was given, with --repair."
        )
    with tempfile.TemporaryDirectory() as empty:
        about = prepare(replace(request, store=empty), lambda *_: None).about
    if about["key"][:20] != name:
        raise CacheError(
            f"the data set and the teacher must give the key that the folder is named by, {name}, "
            f"got {about['key'][:20]} ({objects.root}). Give those that it was built from."
        )
    objects.put("zarr.json", root_metadata(about))
