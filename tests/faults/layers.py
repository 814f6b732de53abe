"""Layers of file calls that count, kill, fail and forget, to be put in place of the real one."""

from __future__ import annotations

import errno
import os
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from geocache.data.files import Files
from geocache.data.marks import Mark

CALLS = ("write", "sync", "rename", "link", "unlink", "mkdir", "sync_folder", "protect")
"""The calls that change a disk."""


class Watched(Files):
    """Tells `before` of every call that changes the disk; syncs cost nothing.

    Leaving the real sync out changes nothing that a process can see, and saves most of the time.
    """

    def before(self, call: str, path: Path, data: bytes = b"") -> None:
        """Do what the layer is for; raising prevents the call."""

    def write(self, path: Path, data: bytes) -> None:
        self.before("write", path, data)
        super().write(path, data)

    def sync(self, path: Path) -> None:
        self.before("sync", path)

    def rename(self, old: Path, new: Path) -> None:
        self.before("rename", new)
        super().rename(old, new)

    def link(self, old: Path, new: Path) -> None:
        self.before("link", new)
        super().link(old, new)

    def unlink(self, path: Path) -> None:
        self.before("unlink", path)
        super().unlink(path)

    def mkdir(self, path: Path) -> None:
        self.before("mkdir", path)
        super().mkdir(path)

    def sync_folder(self, path: Path) -> None:
        self.before("sync_folder", path)

    def protect(self, path: Path) -> None:
        self.before("protect", path)
        super().protect(path)


class Counting(Watched):
    """Notes the name of every call."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def before(self, call: str, path: Path, data: bytes = b"") -> None:
        self.calls.append(call)


class Killing(Watched):
    """Kills its own process before call number `point`, or in the middle of that write."""

    def __init__(self, point: int, *, torn: bool = False) -> None:
        self.left, self.torn = point, torn

    def before(self, call: str, path: Path, data: bytes = b"") -> None:
        if self.left == 0:
            if self.torn and call == "write":
                path.write_bytes(data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1


class Failing(Watched):
    """Call number `point`, reads included, is refused; with ENOSPC every later write as well.

    A full disk still reads and removes.
    """

    def __init__(self, point: int, number: int) -> None:
        self.left, self.number, self.struck = point, number, 0

    def read_marked(self, path: Path) -> tuple[bytes, Mark | None]:
        self.before("read", path)
        return super().read_marked(path)

    def before(self, call: str, path: Path, data: bytes = b"") -> None:
        self.left -= 1
        full = self.number == errno.ENOSPC
        if full and call in ("read", "unlink", "protect"):
            return
        if self.left == -1 or (full and self.left < 0):
            self.struck += 1
            raise OSError(self.number, os.strerror(self.number), str(path))


@dataclass
class _Inode:
    data: bytes
    synced: bool = False


Listing = dict[str, "_Inode | None"]
"""What a folder's names mean; None is a folder."""
_NOT_FOLLOWED = ("lock", "claims")
"""In `meta`: locks say nothing after a power cut."""


@dataclass
class Choice:
    """Which of the things not synced a crashed disk has kept; `names` and `bytes` in 0 to 1."""

    names: Callable[[], bool]
    contents: Callable[[bytes], bytes]


def lost() -> Choice:
    """Nothing that was not synced has reached the disk."""
    return Choice(lambda: False, lambda data: b"")


def torn() -> Choice:
    """Every name has reached the disk, and half of the bytes that were not synced."""
    return Choice(lambda: True, lambda data: data[: len(data) // 2])


def mixed(seed: int) -> Choice:
    """Some of it has."""
    draw = random.Random(seed)
    return Choice(
        lambda: draw.random() < 0.5,
        lambda data: draw.choice((data, b"", data[: len(data) // 2], bytes(len(data)))),
    )


@dataclass
class Forgetful(Watched):
    """Knows what a disk under `root` would hold if the power went now.

    A file's bytes are safe after `sync`, a name (made, replaced or removed) after `sync_folder` of
    its folder. Before every call `watch` is told of its number.
    """

    root: Path
    watch: Callable[[int], None] = lambda point: None
    point: int = 0
    _inodes: dict[int, _Inode] = field(default_factory=dict)
    _safe: dict[Path, Listing] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """What is there at the start is safe."""
        for folder, _, names in os.walk(self.root):
            for name in names:
                file = Path(folder) / name
                self._inodes[file.stat().st_ino] = _Inode(file.read_bytes(), synced=True)
        for folder, _, _ in os.walk(self.root):
            self._safe[Path(folder)] = self._now(Path(folder))

    def before(self, call: str, path: Path, data: bytes = b"") -> None:
        self.watch(self.point)
        self.point += 1

    def write(self, path: Path, data: bytes) -> None:
        super().write(path, data)
        self._inodes[path.stat().st_ino] = _Inode(data)

    def sync(self, path: Path) -> None:
        super().sync(path)
        self._inodes[path.stat().st_ino].synced = True

    def sync_folder(self, path: Path) -> None:
        super().sync_folder(path)
        self._safe[path] = self._now(path)

    def crash(self, choice: Choice) -> dict[str, bytes]:
        """Return the files that are there after a power cut."""
        return dict(self._after(self.root, "", choice))

    def _after(self, folder: Path, front: str, choice: Choice) -> list[tuple[str, bytes]]:
        files: list[tuple[str, bytes]] = []
        safe, now = self._safe.get(folder, {}), self._now(folder)
        for name in sorted({*safe, *now}):
            same = name in safe and name in now and safe[name] is now[name]
            kept = safe if not same and not choice.names() else now
            if name not in kept:
                continue
            inode = kept[name]
            if inode is None:
                files += self._after(folder / name, f"{front}{name}/", choice)
            else:
                data = inode.data if inode.synced else choice.contents(inode.data)
                files.append((front + name, data))
        return files

    def _now(self, folder: Path) -> Listing:
        with os.scandir(folder) as entries:
            return {
                entry.name: None if entry.is_dir() else self._inodes[entry.inode()]
                for entry in entries
                if folder.name != "meta" or entry.name not in _NOT_FOLLOWED
            }
