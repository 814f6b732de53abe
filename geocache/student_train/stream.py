"""From a cache to batches: load once, gather by row, decode by batch.

Resident mode: images and targets are read once, in the order they are stored (the fast way to
read), and kept as they are stored, several times smaller than decoded. A batch is one
`index_select` an array, then normalisation and decoding of that batch on its device. No step looks
at single samples in Python.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor

from geocache.data.views import ViewSet
from geocache.errors import ConfigError, MissingTargetError, nearest
from geocache.student_train.order import batch_bounds, epoch_order
from geocache.student_train.source import Decoder, Source
from geocache.targets import serving_name

__all__ = ["Batch", "Loader", "find_target", "normalise", "usable_rows"]

_SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}


@dataclass(frozen=True)
class Batch:
    """One batch: normalised images (B, 3, H, W), labels and rows (B,), decoded targets by name."""

    images: Tensor
    labels: Tensor
    targets: Mapping[str, Tensor]
    rows: Tensor

    def at(self, where: str | None = None) -> dict[str, Tensor]:
        """Return what a loss compares with at `where`, keyed by the bare names.

        `where` is the teacher's layer, with several teachers `NAME/LAYER`, or `NAME` for what
        belongs to no layer (logits); with one teacher None stands for that. `labels` is always
        there.
        """
        prefix = f"{where}/" if where else ""
        found = {
            name.removeprefix(prefix): value
            for name, value in self.targets.items()
            if name.startswith(prefix) and "/" not in name.removeprefix(prefix)
        }
        return {"labels": self.labels, **found}


def normalise(
    images: UInt8[Tensor, "batch 3 h w"],
    scale: Float[Tensor, "3 1 1"],
    shift: Float[Tensor, "3 1 1"],
) -> Float[Tensor, "batch 3 h w"]:
    """Return `images * scale + shift` in float32: (pixels / 255 - mean) / std in one pass."""
    return torch.addcmul(shift, images.to(torch.float32), scale)


def normalisation(
    mean: Sequence[float], std: Sequence[float], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return the (scale, shift) of `normalise` for a mean and std on pixels from 0 to 1."""
    m = torch.tensor(mean, dtype=torch.float64)
    s = torch.tensor(std, dtype=torch.float64)
    return tuple(t.float().view(-1, 1, 1).to(device) for t in (1 / (255 * s), -m / s))  # type: ignore[return-value]


def usable_rows(source: Source, limit: int | None = None) -> NDArray[np.int64]:
    """Return the valid rows among the first `limit` (by default all)."""
    rows = np.flatnonzero(source.valid[: source.n_rows]).astype(np.int64)
    return rows if limit is None else rows[rows < limit]


class Loader:
    """Batches of a cache: `for batch in loader.epoch(e)`, in an order of (seed, epoch) alone.

    Arguments: `cache`, what `geocache.open` returns; `targets`, names such as `logits` or
    `layer2/mst`; `batch_size` and `seed`; `rows`, those to use (by default all, and then all must
    be built; invalid ones are left out either way); `device`, where the arrays are kept and the
    batches appear; `views`, by default those of the cache, of which epoch e takes view
    `(e + view_offset) mod views.count`; with `fresh_views` every epoch takes a new one, for which
    no teacher has an answer.

    Raises MissingTargetError for a target that the cache lacks or does not hold for all those
    rows and views, ConfigError for a bad batch size, for no rows at all, for views of another
    policy than the cache's, and for targets of fresh views. Memory: the stored bytes of the images,
    and of the targets in every view, up to the last row used.
    """

    def __init__(
        self,
        cache: Source,
        targets: Sequence[str] = (),
        batch_size: int = 128,
        seed: int = 0,
        rows: Sequence[int] | NDArray[np.int64] | None = None,
        device: str | torch.device = "cpu",
        views: ViewSet | None = None,
        view_offset: int = 0,
        fresh_views: bool = False,
    ) -> None:
        self._set_views(cache, views, view_offset, fresh=fresh_views, targets=targets)
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}.")
        usable = usable_rows(cache)
        wanted = usable if rows is None else np.intersect1d(usable, np.asarray(rows, np.int64))
        if len(wanted) == 0:
            raise ConfigError(
                f"rows must name valid rows of the cache, got none of {cache.n_rows}."
            )
        self.rows: NDArray[np.int64] = wanted
        self.batch_size = batch_size
        self.seed = seed
        self.device = torch.device(device)
        self.targets = tuple(dict.fromkeys(targets))
        # Without rows all must be built: half a cache would train worse and say nothing.
        n_read = cache.n_rows if rows is None else int(wanted[-1]) + 1
        held = {name: find_target(cache, name) for name in self.targets}
        for name in ("images", *held.values()):
            _check_built(cache, name, n_read, self.views.count)
        self._decoders: dict[str, Decoder] = {n: cache.decoder(h) for n, h in held.items()}
        # NCHW once, here: the step then gathers and normalises contiguous memory.
        images = torch.from_numpy(_writable(cache.read("images", 0, n_read)))
        self._images = images.permute(0, 3, 1, 2).contiguous().to(self.device)
        self._stored = {
            n: [self._resident(cache.read(h, 0, n_read, view)) for view in range(self.views.count)]
            for n, h in held.items()
        }
        self._labels = self._resident(cache.labels[:n_read].astype(np.int64))
        self._scale, self._shift = normalisation(cache.mean, cache.std, self.device)

    def _set_views(
        self,
        cache: Source,
        views: ViewSet | None,
        offset: int,
        *,
        fresh: bool,
        targets: Sequence[str],
    ) -> None:
        # A user's own transform is imported where the caller names it, never because a cache does.
        self.views = views or cache.views
        wanted, held = asdict(self.views.identity()), dict(cache.view_identity)
        if not fresh and wanted != held:
            raise ConfigError(
                f"views must be those that the teacher saw, got {wanted['policy']} "
                f"{wanted['parameters']} where the cache has {held['policy']} "
                f"{held['parameters']} ({cache.key[:12]}). Set [data] views alike and build."
            )
        if fresh and targets:
            raise ConfigError(
                f"fresh views must go without targets, which answer other pixels, got "
                f"{', '.join(targets)}. Leave fresh_views out."
            )
        self._view_offset, self._fresh = offset, fresh
        self._read_parameters = cache.view_parameters
        self._parameters: dict[int, Tensor] = {}

    def view_of(self, epoch: int) -> int:
        """Return the view that an epoch (counted from 0) takes."""
        number = epoch + self._view_offset
        return number if self._fresh else number % self.views.count

    def _view_parameters(self, view: int) -> Tensor:
        """Return the parameters of all rows in a view; of fresh views only the last is kept."""
        if view not in self._parameters:
            if self._fresh:
                self._parameters.clear()
            self._parameters[view] = self._resident(self._read_parameters(view, len(self._labels)))
        return self._parameters[view]

    def _resident(self, stored: NDArray[Any]) -> Tensor:
        return torch.from_numpy(_writable(stored)).to(self.device)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Return (channels, height, width) of a batch's images."""
        channels, height, width = self._images.shape[1:]
        height, width, channels = self.views.policy.output_shape((height, width, channels))
        return channels, height, width

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return -(-len(self.rows) // self.batch_size)

    def restrict(self, rows: NDArray[np.int64], *, targets: bool = True) -> Loader:
        """Return a loader of some of these rows, or without targets, that shares this memory."""
        part = copy.copy(self)
        part.rows = np.intersect1d(self.rows, rows)
        if not targets:
            part.targets, part._stored = (), {}
        return part

    def batch(self, rows: NDArray[np.int64], view: int | None = 0) -> Batch:
        """Gather and decode these rows in a view; None stands for whole images, without targets."""
        index: Int64[Tensor, " batch"] = torch.from_numpy(rows).to(self.device, non_blocking=True)
        pixels, policy = self._images.index_select(0, index), self.views.policy
        if view is None:
            pixels = policy.whole(pixels)
        elif not self.views.is_plain:
            pixels = policy.apply(pixels, self._view_parameters(view).index_select(0, index))
        targets = {} if view is None else self._stored
        return Batch(
            images=normalise(pixels, self._scale, self._shift),
            labels=self._labels.index_select(0, index),
            targets={
                name: self._decoders[name].decode(_gather(stored[view or 0], index))
                for name, stored in targets.items()
            },
            rows=index,
        )

    def epoch(self, epoch: int, *, drop_single: bool = False) -> Iterator[Batch]:
        """Yield the batches of one epoch, each usable row once; the last batch may be short.

        With `drop_single` a last batch of one row is left out (batch norm cannot train on it).
        """
        order = epoch_order(self.rows, seed=self.seed, epoch=epoch)
        view = self.view_of(epoch)
        for part in batch_bounds(len(order), self.batch_size, drop_single=drop_single):
            yield self.batch(order[part], view)

    def in_order(self, view: int | None = 0) -> Iterator[Batch]:
        """Yield every row once in the cache's order; None gives whole images, for evaluation."""
        for part in batch_bounds(len(self.rows), self.batch_size):
            yield self.batch(self.rows[part], view)


def _writable(stored: NDArray[Any]) -> NDArray[Any]:
    """Copy only what torch cannot share: memory-mapped and strided arrays."""
    return np.require(stored, requirements=["C", "W"])


def _gather(stored: Tensor, index: Tensor) -> Tensor:
    # torch moves unsigned integers wider than a byte, but gathers them on few devices.
    signed = _SIGNED.get(stored.dtype)
    if signed is None:
        return stored.index_select(0, index)
    return stored.view(signed).index_select(0, index).view(stored.dtype)


def find_target(cache: Source, name: str) -> str:
    """Return the name of the cached target that serves `name`: itself, or a longer k-NN list.

    Raises MissingTargetError when the cache holds neither.
    """
    known = cache.target_names()
    found = serving_name(name, known)
    if found is not None:
        return found
    raise MissingTargetError(
        f"cache must hold the target '{name}', got {', '.join(known) or 'no targets'} "
        f"({cache.key[:12]}).{nearest(name, known)} Build it with `geocache build`."
    )


def _check_built(cache: Source, name: str, n_read: int, n_views: int) -> None:
    n_built = cache.n_built(name, n_views)
    if n_built < n_read:
        of_views = f" in {n_views} views" if n_views > 1 else ""
        raise MissingTargetError(
            f"cache must hold '{name}' for all rows that are used, {n_read}{of_views}, got "
            f"{n_built} ({cache.key[:12]}). Let `geocache build` finish, or use the first "
            f"{n_built} rows (data.limit = {n_built}, rows=range({n_built}))."
        )
