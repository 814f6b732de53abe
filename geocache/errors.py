"""The exceptions that geocache raises on purpose; everything else is a bug.

Each message is one line in the form `<thing> must <contract>, got <value> (<where>). <what to do>.`
Each class also inherits the built-in that fits, so that callers who know only Python catch it.
"""

from __future__ import annotations

__all__ = [
    "CacheError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "GeocacheError",
    "MissingDataError",
    "MissingTargetError",
    "NumericError",
    "ShapeError",
    "StorageError",
    "UnknownNameError",
    "nearest",
]


class GeocacheError(Exception):
    """Root of all errors that geocache raises on purpose."""

    def __str__(self) -> str:
        """Return the message itself; KeyError and OSError would decorate it."""
        return " ".join(str(arg) for arg in self.args)


class ConfigError(GeocacheError, ValueError):
    """A recipe, an option or an argument breaks its contract."""


class UnknownNameError(GeocacheError, KeyError):
    """A name is not among the known ones."""


class ShapeError(GeocacheError, ValueError):
    """Two shapes that must agree do not."""


class CheckpointError(GeocacheError, ValueError):
    """A checkpoint cannot be read or does not fit the model."""


class DataError(GeocacheError, ValueError):
    """A data set or an image breaks its contract."""


class MissingDataError(DataError, FileNotFoundError):
    """A data folder or file is absent or empty."""


class NumericError(GeocacheError, ValueError):
    """A number is not finite or does not fit its storage type."""


class CacheError(GeocacheError, ValueError):
    """A cache is damaged, incomplete or not the one that was asked for."""


class MissingTargetError(CacheError, KeyError):
    """A cache does not hold a target that was asked for."""


class StorageError(GeocacheError, OSError):
    """The disk or bucket refused: full, read-only or out of reach."""


def nearest(name: str, known: tuple[str, ...]) -> str:
    """Return ` Did you mean 'x'?` for the closest known name, or an empty string."""
    import difflib

    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""
