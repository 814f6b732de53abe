"""Verify a cache at three depths, and put right what is damaged."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from geocache.data.cache import Cache
from geocache.data.catalog import find_cache, store_root
from geocache.data.dataset import ImageDataset
from geocache.data.findings import Depth, Finding
from geocache.data.objects import Address, open_objects
from geocache.data.verify import verify_objects
from geocache.errors import CacheError, CheckpointError, ConfigError, UnknownNameError
from geocache.pipeline.contents import check_contents
from geocache.pipeline.measure import IMAGES
from geocache.pipeline.recompute import Compared, recompute_sample
from geocache.pipeline.repair import Means, repair_cache
from geocache.pipeline.request import BuildRequest, Progress
from geocache.pipeline.teacher import fitting_teacher

__all__ = ["VerifyReport", "cache_address", "verify"]

_SAMPLE_ROWS = 64
_ROUNDS = 3
"""Of repair: what one finds may hide what the next look finds, as a lost root does."""


@dataclass(frozen=True)
class VerifyReport:
    """What a look at a cache found, and what was put right."""

    path: Address
    depth: Depth
    n_objects: int
    """Objects that were held against what vouches for them."""
    n_bytes: int
    """Bytes that were read and held against a checksum or another copy."""
    findings: tuple[Finding, ...]
    """What is not as it should be now; leftovers and unknown files among it."""
    repaired: tuple[Finding, ...] = ()
    """What was damaged and has been put right."""
    compared: tuple[Compared, ...] = ()
    """Targets of which the teacher computed rows again."""
    left_out: str | None = None
    """Why the teacher did not run, where it was to."""
    elapsed_s: float = 0.0

    @property
    def damage(self) -> tuple[Finding, ...]:
        """The findings that are damage."""
        return tuple(finding for finding in self.findings if finding.damage)


def verify(
    which: Address,
    store: Address | None = None,
    *,
    depth: Depth = "full",
    repair: bool = False,
    weights: str | None = None,
    datasets: Sequence[ImageDataset] = (),
    root: BuildRequest | None = None,
    sample: int = _SAMPLE_ROWS,
    progress: Progress | None = None,
) -> VerifyReport:
    """Check a cache, given by its address or the first letters of its key; return what was found.

    depth: `quick` checks that every object exists and has its size; `full` every checksum; `deep`
    decodes every row besides and has the teacher compute those around `sample` rows again.
    repair: put right what is damaged. weights, datasets: what the teacher and the rows are
    taken from, where the cache does not hold them; root: the cache's whole request, for a lost
    root document.

    Raises CacheError when there is no such cache or a repair meets a builder, DataError and
    CheckpointError when a repair lacks the data set or the weights.
    """
    started = time.monotonic()
    tell = progress or (lambda phase, done, total: None)
    address = cache_address(which, store)
    report = _verified(address, depth, weights, sample, tell)
    repaired: dict[str, Finding] = {}
    for _ in range(_ROUNDS if repair else 0):
        if not report.damage:
            break
        repaired.update((finding.key, finding) for finding in report.damage)
        means = Means(weights, tuple(datasets), root)
        repair_cache(address, report.damage, means, tell)
        report = _verified(address, depth, weights, sample, tell)
    still = {finding.key for finding in report.damage}
    report = dataclasses.replace(
        report, repaired=tuple(f for key, f in sorted(repaired.items()) if key not in still)
    )
    return dataclasses.replace(report, elapsed_s=time.monotonic() - started)


def _verified(
    address: Address, depth: Depth, weights: str | None, sample: int, tell: Progress
) -> VerifyReport:
    found = verify_objects(address, depth=depth, progress=tell)
    report = VerifyReport(address, depth, found.n_objects, found.n_bytes, found.findings)
    if depth != "deep":
        return report
    if report.damage:
        return dataclasses.replace(report, left_out="the damage has to be repaired first")
    cache = Cache(address)
    contents = check_contents(cache, tell)
    report = dataclasses.replace(report, findings=(*contents, *report.findings))
    if contents:
        return dataclasses.replace(report, left_out="what cannot be right is to be repaired first")
    if cache.identity["teacher"]["model"].startswith("imported:"):
        return dataclasses.replace(report, left_out="its targets were imported")
    if not cache.n_built(IMAGES):
        return dataclasses.replace(report, left_out="it holds no images")
    threads = torch.get_num_threads()
    try:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        teacher = fitting_teacher(cache, weights, device)
        findings, compared = recompute_sample(cache, teacher, sample, tell)
    except ConfigError as error:  # views by a module of the user's own
        return dataclasses.replace(report, left_out=str(error))
    except (CheckpointError, UnknownNameError) as error:
        if weights is not None:
            raise
        return dataclasses.replace(report, left_out=str(error))
    finally:
        torch.set_num_threads(threads)
    findings_now = (*findings, *report.findings)
    return dataclasses.replace(report, findings=findings_now, compared=tuple(compared))


def cache_address(which: Address, store: Address | None) -> Address:
    """Return where a cache stands, also one whose root document is gone or unreadable."""
    try:
        return find_cache(which, store)
    except CacheError:
        path = which if "://" in str(which) else Path(which).expanduser().absolute()
        if open_objects(path).names("meta/arrays"):
            return path
        home = store_root(store)
        names = [name for name in open_objects(home).names("") if name.startswith(str(which))]
        if len(names) == 1 and len(str(which)) >= 4:
            return home / names[0] if isinstance(home, Path) else f"{home}/{names[0]}"
        raise
