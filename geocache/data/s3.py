"""Objects in a bucket that speaks S3, by conditional writes; credentials come from the environment.

A bucket shows an object only when it is whole, so `put` needs no second name, and `create` is a
write on the condition that nothing is there (`If-None-Match: *`). Where something is there after
all it may be our own write, whose reply was lost: the bytes are compared.

Buckets have no locks. Two builders of one cache may therefore do the same work twice, which changes
nothing where their bits agree. Where they do not (other libraries, another kind of device) whoever
wrote an object last settles its receipt; one that reads back the other's bytes stops with an error,
and a group whose receipt and object do not fit counts as damaged, is never read, and `verify
--repair` mends it. Leftovers of builders that died are never removed here, since whether another is
still at work cannot be known; they take space and are not read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from geocache.data.keys import check_key
from geocache.data.marks import Mark
from geocache.data.s3_access import bucket_and_prefix, never_happened, open_bucket, refusal
from geocache.errors import CacheError

__all__ = ["S3Objects"]

_TRIES = 3


class S3Objects:
    """Objects under `s3://BUCKET/PREFIX`; may be used by several threads."""

    distant = True

    def __init__(self, root: str) -> None:
        """Use a bucket's prefix.

        Raises ConfigError where the extra `s3` is not installed or the address is none, and
        StorageError without credentials in the environment.
        """
        self.root = root.rstrip("/")
        _, self._prefix = bucket_and_prefix(self.root)
        self._store: Any = open_bucket(self.root)

    def put(self, key: str, data: bytes) -> None:
        """Write an object, replacing an old one; StorageError when the bucket refuses."""
        import obstore

        name = self._name(key)
        try:
            obstore.put(self._store, name, data, use_multipart=False)
        except Exception as error:
            raise refusal(error, key, self.root) from None

    def create(self, key: str, data: bytes) -> bool:
        """Write an object unless it exists; return whether what stands there are these bytes.

        A write whose reply is lost may have happened, and obstore repeats some of them by itself:
        the object that is then in the way is our own, and its bytes tell.
        """
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        name = self._name(key)
        for tries_left in reversed(range(_TRIES)):
            try:
                obstore.put(self._store, name, data, mode="create", use_multipart=False)
                return True
            except (AlreadyExistsError, PreconditionError):
                return self._found(key) == data
            except Exception as error:
                if never_happened(error) or not tries_left:
                    raise refusal(error, key, self.root) from None
            stands = self._found(key)
            if stands is not None:
                return stands == data
        raise AssertionError

    def get(self, key: str) -> bytes:
        """Return an object's bytes; raise CacheError when it is missing."""
        return self.get_marked(key)[0]

    def get_marked(self, key: str) -> tuple[bytes, Mark | None]:
        """Return an object's bytes as `get` does, and their mark: its entity tag and version."""
        found = self._found_marked(key)
        if found is None:
            raise CacheError(
                f"object '{key}' must exist, but it is missing (in {self.root}). "
                "`geocache verify` shows what else is, and --repair restores it."
            )
        return found

    def exists(self, key: str) -> bool:
        """Return whether there is such an object."""
        import obstore

        name = self._name(key)
        try:
            obstore.head(self._store, name)
        except FileNotFoundError:
            return False
        except Exception as error:
            raise refusal(error, key, self.root) from None
        return True

    def names(self, prefix: str) -> list[str]:
        """Return the names right under a prefix, sorted."""
        import obstore

        front = self._name(prefix) or None
        try:
            found = obstore.list_with_delimiter(self._store, front)
        except Exception as error:
            raise self._not_listed(error, prefix) from None
        whole = [entry["path"] for entry in found["objects"]] + list(found["common_prefixes"])
        return sorted(path.rstrip("/").rpartition("/")[2] for path in whole)

    def walk(self, prefix: str = "") -> list[tuple[str, int]]:
        """Return (key, bytes) of every object under a prefix, sorted by key.

        One request for each 1,000 of them.
        """
        import obstore

        front, under = f"{self._prefix}/" if self._prefix else "", self._name(prefix)
        try:
            found = obstore.list(self._store, under or None).collect()
        except Exception as error:
            raise self._not_listed(error, prefix) from None
        return sorted((entry["path"].removeprefix(front), entry["size"]) for entry in found)

    def delete(self, key: str) -> None:
        """Remove an object if it is there."""
        import obstore

        name = self._name(key)
        try:
            obstore.delete(self._store, name)
        except FileNotFoundError:
            return
        except Exception as error:
            raise refusal(error, key, self.root) from None

    def keep_names(self, prefix: str) -> None:
        """Do nothing: what a bucket has acknowledged is durable."""

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
    def claim(self, name: str, *, wait: bool = False) -> Iterator[bool]:
        """Yield True: builders of one cache in a bucket may do work twice, which harms nothing."""
        yield True

    def unfinished(self) -> list[str]:
        """Return nothing: a bucket never shows unfinished writes."""
        return []

    def clean(self) -> list[str]:
        """Return nothing: a bucket never shows unfinished writes."""
        return []

    def _name(self, key: str) -> str:
        if key:
            check_key(key, self.root)
        return "/".join(part for part in (self._prefix, key) if part)

    def _found(self, key: str) -> bytes | None:
        """Return an object's bytes, None when it is missing."""
        found = self._found_marked(key)
        return None if found is None else found[0]

    def _found_marked(self, key: str) -> tuple[bytes, Mark | None] | None:
        """Return an object's bytes and their mark, None when it is missing."""
        import obstore

        name = self._name(key)
        try:
            reply = obstore.get(self._store, name)
            return bytes(reply.bytes()), _mark(reply.meta)
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise refusal(error, key, self.root) from None
            return None
        except Exception as error:
            raise refusal(error, key, self.root) from None

    def _not_listed(self, error: Exception, prefix: str) -> Exception:
        from obstore.exceptions import InvalidPathError

        if isinstance(error, InvalidPathError):
            return CacheError(
                f"object keys must be plain names, got one that leads elsewhere under '{prefix}' "
                f"(in {self.root}). Remove it from the bucket."
            )
        return refusal(error, prefix, self.root)


def _mark(about: Mapping[str, Any]) -> Mark | None:
    """Return what tells this content of an object from another: a strong entity tag (RFC 9110)."""
    tag = about.get("e_tag")
    if not tag or tag.startswith("W/"):
        return None
    return tag, about.get("version"), about["size"]
