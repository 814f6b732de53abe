"""Objects in a bucket that speaks S3, by conditional writes; credentials come from the environment.

A bucket shows an object only when it is whole, so `put` needs no second name, and `create` is a
write on the condition that nothing is there. After a lost reply the repeated write finds our own
object in its place: who asks compares the bytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from geocache.errors import CacheError, ConfigError, StorageError

__all__ = ["S3Objects"]


class S3Objects:
    """Objects under `s3://BUCKET/PREFIX`."""

    def __init__(self, root: str) -> None:
        """Use a bucket's prefix; raises ConfigError where the extra `s3` is not installed."""
        self.root = root.rstrip("/")
        try:
            import obstore
            from obstore.store import S3Store
        except ImportError:
            raise ConfigError(
                f"a store in a bucket ({root}) must have the extra 's3' installed. Run "
                "`pip install 'geocache[s3]'`."
            ) from None
        bucket, _, self._prefix = self.root.removeprefix("s3://").partition("/")
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        self._obstore: Any = obstore
        self._store = S3Store(
            bucket,
            client_options={"allow_http": bool(endpoint and endpoint.startswith("http://"))},
            retry_config={"max_retries": 8, "retry_timeout": timedelta(seconds=180)},
        )

    def _name(self, key: str) -> str:
        return "/".join(part for part in (self._prefix, key) if part)

    def put(self, key: str, data: bytes) -> None:
        """Write an object, replacing an old one; StorageError when the bucket refuses."""
        try:
            self._obstore.put(self._store, self._name(key), data, use_multipart=False)
        except Exception as error:
            raise self._refusal(error, key) from error

    def create(self, key: str, data: bytes) -> bool:
        """Write an object unless it exists; return whether it stands there by this call.

        A reply may be lost and the write repeated: what then stands there is our own.
        """
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        try:
            self._obstore.put(
                self._store, self._name(key), data, mode="create", use_multipart=False
            )
        except (AlreadyExistsError, PreconditionError):
            return False
        except Exception as error:
            raise self._refusal(error, key) from error
        return True

    def get(self, key: str) -> bytes:
        """Return an object's bytes; raise CacheError when it is missing."""
        try:
            return bytes(self._obstore.get(self._store, self._name(key)).bytes())
        except FileNotFoundError:
            raise CacheError(
                f"object '{key}' must exist, but it is missing (in {self.root}). "
                "`geocache verify` shows what else is, and --repair restores it."
            ) from None
        except Exception as error:
            raise self._refusal(error, key) from error

    def exists(self, key: str) -> bool:
        """Return whether there is such an object."""
        try:
            self._obstore.head(self._store, self._name(key))
        except FileNotFoundError:
            return False
        except Exception as error:
            raise self._refusal(error, key) from error
        return True

    def names(self, prefix: str) -> list[str]:
        """Return the names right under a prefix, sorted."""
        try:
            found = self._obstore.list_with_delimiter(self._store, self._name(prefix) or None)
        except Exception as error:
            raise self._refusal(error, prefix) from error
        whole = [entry["path"] for entry in found["objects"]] + list(found["common_prefixes"])
        return sorted(path.rstrip("/").rpartition("/")[2] for path in whole)

    def walk(self, prefix: str = "") -> list[tuple[str, int]]:
        """Return (key, bytes) of every object under a prefix, sorted by key."""
        front = f"{self._prefix}/" if self._prefix else ""
        try:
            found = self._obstore.list(self._store, self._name(prefix) or None).collect()
        except Exception as error:
            raise self._refusal(error, prefix) from error
        return sorted((entry["path"].removeprefix(front), entry["size"]) for entry in found)

    def delete(self, key: str) -> None:
        """Remove an object if it is there."""
        try:
            self._obstore.delete(self._store, self._name(key))
        except FileNotFoundError:
            return
        except Exception as error:
            raise self._refusal(error, key) from error

    def protect(self, key: str) -> None:
        """Do nothing: buckets have policies for that."""

    def free_bytes(self) -> None:
        """Return None: a bucket has no end."""
        return

    @contextmanager
    def writing(self) -> Iterator[bool]:
        """Do nothing: buckets have no locks."""
        yield True

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Yield False: who else writes a bucket cannot be known."""
        yield False

    @contextmanager
    def claim(self, name: str) -> Iterator[bool]:
        """Yield True: builders of one cache in a bucket may do work twice, which harms nothing."""
        yield True

    def unfinished(self) -> list[str]:
        """Return nothing: a bucket never shows unfinished writes."""
        return []

    def clean(self) -> list[str]:
        """Return nothing: a bucket never shows unfinished writes."""
        return []

    def _refusal(self, error: Exception, key: str) -> StorageError:
        reason = " ".join(str(error).split())[:300]
        return StorageError(f"bucket refused object '{key}': {reason} (in {self.root}).")
