"""What the receipts of a damaged cache said of how its arrays were computed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch

from geocache.data.documents import array_paths, parse_receipt
from geocache.data.objects import Objects
from geocache.errors import CacheError

__all__ = ["ToldReceipts", "device_of"]


class ToldReceipts:
    """What the receipts of a cache said before any was removed, sound or not."""

    def __init__(self, objects: Objects) -> None:
        """Read every receipt of the cache."""
        self._sound: dict[str, list[dict[str, Any]]] = {}
        self._any: dict[str, list[dict[str, Any]]] = {}
        self._names: dict[str, list[str]] = {}
        for path in array_paths(key for key, _ in objects.walk()):
            self._names[path] = objects.names(f"meta/receipts/{path}")
            for name in self._names[path]:
                try:
                    data = objects.get(f"meta/receipts/{path}/{name}")
                except CacheError:
                    continue
                receipt = parse_receipt(data)
                if receipt is not None and receipt["array"] == path:
                    self._sound.setdefault(path, []).append(receipt)
                elif receipt is None:
                    self._any.setdefault(path, []).append(_readable(data))

    def names(self, path: str) -> list[str]:
        """Return the names of an array's receipts."""
        return self._names.get(path, [])

    def sound(self, path: str) -> list[dict[str, Any]]:
        """Return the receipts of an array that are whole."""
        return self._sound.get(path, [])

    def derived_from(self, path: str) -> tuple[str, ...] | None:
        """Return the stored targets that an array was computed from, None: by the teacher."""
        for receipt in (*self.sound(path), *self._any.get(path, [])):
            if "derived_from" in receipt:
                return tuple(map(str, receipt["derived_from"]))
        return None

    def imported(self, path: str) -> bool:
        """Return whether some rows of an array came from a file."""
        return any("imported" in r for r in (*self.sound(path), *self._any.get(path, [])))

    def provenance(self, path: str) -> dict[str, Any]:
        """Return how an array was computed, or else any of the others."""
        for receipt in (*self.sound(path), *(r for found in self._sound.values() for r in found)):
            return receipt
        return {"device": "cpu", "batch_size": 64, "threads": torch.get_num_threads()}


def _readable(data: bytes) -> dict[str, Any]:
    """Return what can still be read of a damaged receipt."""
    try:
        document = json.loads(data)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def device_of(receipt: Mapping[str, Any]) -> str:
    """Return the kind of device to compute on as before: the GPU if it was one and one is here."""
    return "cuda" if receipt["device"] != "cpu" and torch.cuda.is_available() else "cpu"
