"""Which objects stand under a folder: a folder is looked at each time, a bucket once.

Every look at a bucket is a request, and a cache has a folder of receipts for each of its arrays.
One request lists them all, and what it said is remembered until somebody wants a fresh look.
"""

from __future__ import annotations

from geocache.data.objects import Objects

__all__ = ["Listing"]


class Listing:
    """Names under the folder `top`, remembered where a look is a request."""

    def __init__(self, objects: Objects, top: str) -> None:
        """List `top` when it is first asked for."""
        self._objects, self._top = objects, top
        self._folders: dict[str, list[str]] | None = None

    def names(self, folder: str) -> list[str]:
        """Return the names of the objects right in a folder under `top`, sorted."""
        if not self._objects.distant:
            return self._objects.names(folder)
        return list(self._remembered().get(folder, ()))

    def keys(self, folder: str) -> list[str]:
        """Return the keys of all objects anywhere under a folder under `top`, sorted."""
        if not self._objects.distant:
            return [key for key, _ in self._objects.walk(folder)]
        held = self._remembered().items()
        return sorted(
            f"{inner}/{name}"
            for inner, names in held
            if f"{inner}/".startswith(f"{folder}/")
            for name in names
        )

    def forget(self) -> None:
        """Look again when next asked."""
        self._folders = None

    def _remembered(self) -> dict[str, list[str]]:
        folders = self._folders
        if folders is None:
            folders = {}
            for key, _ in self._objects.walk(self._top):
                folder, _, name = key.rpartition("/")
                folders.setdefault(folder, []).append(name)
            self._folders = folders
        return folders
