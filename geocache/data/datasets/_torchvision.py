"""What the data sets read by torchvision share: where they lie and what may be wrong."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from geocache.errors import ConfigError, DataError, MissingDataError

__all__ = ["check_split", "data_root", "load_verified"]


def check_split(name: str, split: str, splits: Sequence[str]) -> None:
    """Raise ConfigError unless `split` is one of `splits`."""
    if split not in splits:
        raise ConfigError(f"split of {name} must be one of {', '.join(splits)}, got '{split}'.")


def data_root(root: Path | None, base_folder: str) -> Path:
    """Return the folder that holds `base_folder`; `data` here if none is given.

    The base folder itself is accepted as well.
    """
    root = Path("data") if root is None else root
    return (root.parent if base_folder and root.name == base_folder else root).absolute()


def load_verified(
    make: Callable[..., Any], root: Path, files: Sequence[str], **options: Any
) -> Any:
    """Return the torchvision data set `make(root, download=False, **options)`.

    torchvision compares the files with their published MD5 sums before it unpickles any.

    Raises MissingDataError, saying where it looked, for what, and how to get it, if one of `files`
    (relative to `root`) is absent, and DataError if they are damaged.
    """
    missing = [file for file in files if not (root / file).is_file()]
    title = make.__name__
    keywords = "".join(f", {key}={value!r}" for key, value in options.items())
    fetch = (
        f'python -c "from torchvision.datasets import {title}; '
        f'{title}({str(root)!r}{keywords}, download=True)"'
    )
    if missing:
        shown = ", ".join(missing[:3])
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise MissingDataError(
            f"{title} must have its files in {root}, but {shown}{more} "
            f"{'is' if len(missing) == 1 else 'are'} not there. Get them with: {fetch} ; or say "
            f'where they are: root = "DIR" in [data], or --dataset {title.lower()}:DIR.'
        )
    try:
        with warnings.catch_warnings():
            # The published CIFAR pickles come from NumPy 1; NumPy 2.4 grumbles about their dtypes.
            warnings.filterwarnings("ignore", message=".*align should be passed.*")
            return make(root, download=False, **options)
    except (RuntimeError, ValueError, OSError) as error:
        raise DataError(
            f"{title} must have the files that were published, got others in {root}: {error} "
            f"Delete them and run: {fetch}"
        ) from error
