"""How the kind of a target is written in a cache, where names must be legal files everywhere.

A registered kind is a module's name and stands as it is. A user's kind is `package.module:Class`;
`.` begins the parameters and `:` is no part of a file's name on Windows, so both are written `~`,
which no Python name contains: `package~module~Class.p3`. Reading a name imports nothing.
"""

from __future__ import annotations

import re

from geocache.errors import ConfigError

__all__ = ["check_users_kind", "kind_of", "written_name"]

_SEPARATOR = "~"
_USERS_KIND = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
_PARAMETERS = re.compile(r"(\.[A-Za-z0-9_-]+)*")


def check_users_kind(kind: str) -> None:
    """Raise ConfigError unless `kind` is `package.module:Class` in plain letters."""
    if not _USERS_KIND.fullmatch(kind):
        raise ConfigError(
            f"target must be named MODULE:CLASS with a class at the top of its module, in ASCII, "
            f"got '{kind}'."
        )


def written_name(kind: str, array_name: str) -> str:
    """Return how `array_name`, whose front is `kind`, is written in a cache.

    Raises ConfigError when a user's name does not begin with its kind, or its parameters hold
    more than letters, digits, `.`, `_` and `-`.
    """
    if ":" not in kind:
        return array_name
    check_users_kind(kind)
    parameters = array_name.removeprefix(kind)
    if not array_name.startswith(kind) or not _PARAMETERS.fullmatch(parameters):
        raise ConfigError(
            f"array_name of target '{kind}' must be its kind, then '.' and its parameters in "
            f"letters, digits, '_' and '-', got '{array_name}'. "
            'Return f"{self.kind}.p{self.p}" or the like.'
        )
    return re.sub("[.:]", _SEPARATOR, kind) + parameters


def kind_of(written: str) -> str:
    """Return the kind that `written_name` wrote: `package~module~Class` is a user's."""
    module, separator, name = written.rpartition(_SEPARATOR)
    return f"{module.replace(_SEPARATOR, '.')}:{name}" if separator else written
