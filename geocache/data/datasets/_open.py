"""Open a data set by its name: a module of this folder, or the user's own `module:callable`."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from geocache.data.dataset import ImageDataset, Source
from geocache.data.datasets._map_style import MapDataset
from geocache.errors import ConfigError, DataError, nearest
from geocache.registry import load_callable, load_module, module_names

__all__ = ["dataset_names", "open_dataset"]

PACKAGE = "geocache.data.datasets"


def dataset_names() -> tuple[str, ...]:
    """Return the registered names."""
    return module_names(PACKAGE)


def open_dataset(
    spec: str,
    *,
    root: str | Path | None = None,
    split: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> ImageDataset:
    """Open one split of a data set; nothing is ever downloaded.

    Args:
        spec: `NAME` or `NAME:DIR` of a registered data set, or `module:callable`, looked up from
            the current folder and called with those of `root`, `split` and `options` that it
            accepts by name. It returns an ImageDataset or anything with a length whose items are
            (image, label).
        root: the data set's folder, `data` here if not given; `NAME:DIR` is short for it, but
            `imagefolder:DIR` holds the class folders of one split right inside.
        split: `train` if not given.
        options: further keywords of the data set.

    Raises UnknownNameError for an unknown name, ConfigError for a split or option that the data set
    does not have, MissingDataError where files are missing, DataError where they are wrong.
    """
    name, _, place = spec.partition(":")
    options = dict(options or {})
    root = None if root is None else Path(root).expanduser().absolute()
    chosen = split or "train"
    if place and name not in dataset_names():
        dataset = _call(spec, root, chosen, options)
    else:
        load = load_module(PACKAGE, name, "dataset").load
        _check_options(name, load, options)
        if place and root is not None:
            raise ConfigError(
                f"the folder of data set '{name}' must be given once, got '{place}' in '{spec}' "
                f"and root '{root}'. Leave one out."
            )
        if place and name == "imagefolder":
            options["directory"] = str(Path(place).expanduser().absolute())
        elif place:
            root = Path(place).expanduser().absolute()
        dataset = load(root=root, split=chosen, **options)
    dataset.source = Source(
        name if place and name in dataset_names() else spec,
        None if root is None else str(root),
        chosen,
        options,
    )
    return dataset


def _check_options(name: str, load: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Raise ConfigError for an option that `load` does not take or of another type."""
    types = typing.get_type_hints(load)
    known = tuple(sorted(types.keys() - {"root", "split", "return"}))
    for option, value in options.items():
        if option not in known:
            raise ConfigError(
                f"options of data set '{name}' must be among {', '.join(known) or '(none)'}, "
                f"got '{option}'.{nearest(option, known)}"
            )
        if not isinstance(value, types[option]):
            word = getattr(types[option], "__name__", str(types[option]))
            raise ConfigError(
                f"{option} of data set '{name}' must be of type {word}, got {value!r}."
            )


def _call(spec: str, root: Path | None, split: str, options: dict[str, Any]) -> ImageDataset:
    """Call the user's `module:callable` with the keywords that it accepts."""
    make = load_callable(spec, "dataset")
    if not callable(make):
        raise ConfigError(
            f"data set '{spec}' must be callable, got {type(make).__name__}. "
            "Name a function or class that returns the data set."
        )
    parameters = inspect.signature(make).parameters.values()
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    names = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    offered = {"root": root, "split": split, **options}
    required = set(options) | ({"root"} if root else set())
    if split != "train":
        required.add("split")
    for keyword in sorted(required - names):
        if not takes_all:
            raise ConfigError(
                f"data set '{spec}' must accept the keyword '{keyword}', which was given as "
                f"{offered[keyword]!r}, got a callable of ({', '.join(sorted(names))}). "
                "Add it, or leave it out."
            )
    made = make(**{k: v for k, v in offered.items() if takes_all or k in names})
    if isinstance(made, ImageDataset):
        return made
    if not (hasattr(made, "__getitem__") and hasattr(made, "__len__")):
        raise DataError(
            f"data set '{spec}' must return an ImageDataset or an object with a length and "
            f"(image, label) items, got {type(made).__name__}."
        )
    return MapDataset(made, name=spec, split=split)
