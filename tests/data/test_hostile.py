"""Metadata from elsewhere that lies: refused in one line, before anything is made of it."""

from __future__ import annotations

import copy as copying
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stores import make_cache

from geocache.cli import main
from geocache.data.cache import Cache
from geocache.data.catalog import find_cache, list_caches
from geocache.data.layout import ArrayLayout
from geocache.data.sealed import parse_json, unseal
from geocache.data.store import (
    array_metadata,
    group_metadata,
    layout_from,
)
from geocache.data.writer import CacheWriter, root_metadata
from geocache.errors import CacheError

WHOLE = ArrayLayout("targets/l/x", "float32", 50, (4,), ("node",), 16)


def one_line(error: BaseException) -> None:
    assert "\n" not in str(error) and len(str(error)) < 1000


def set_at(*path: str | int, to: Any) -> Callable[[Any], None]:
    """Return a change of one place in a document."""

    def change(document: Any) -> None:
        for step in path[:-1]:
            document = document[step]
        document[path[-1]] = to

    return change


def together(*changes: Callable[[Any], None]) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        for one in changes:
            one(document)

    return change


def shard(n_rows: int, codecs: list[Any]) -> list[Any]:
    """Return the codec of a shard that is cut into chunks of so many rows."""
    index = [{"name": "bytes"}, {"name": "crc32c"}]
    inner = {"chunk_shape": [n_rows, 4], "index_codecs": index, "codecs": codecs}
    return [{"name": "sharding_indexed", "configuration": inner}]


CHAIN = [{"name": "bytes"}, {"name": "zstd"}, {"name": "crc32c"}]
GRID = ("chunk_grid", "configuration", "chunk_shape")
ZSTD = ("codecs", 1)
LIES: dict[str, Callable[[Any], None]] = {
    "no rows": set_at("shape", 0, to=0),
    "negative rows": set_at("shape", 0, to=-50),
    "rows beyond all": set_at("shape", 0, to=2**40 + 1),
    "too many groups": set_at("shape", 0, to=2**40),
    "rows as text": set_at("shape", 0, to="50"),
    "rows as true": set_at("shape", 0, to=True),
    "rows as a fraction": set_at("shape", 0, to=50.0),
    "huge axis": together(set_at("shape", 1, to=2**40), set_at(*GRID, 1, to=2**40)),
    "negative axis": together(set_at("shape", 1, to=-4), set_at(*GRID, 1, to=-4)),
    "no axis": together(set_at("shape", 1, to=0), set_at(*GRID, 1, to=0)),
    "group over 1 GiB": together(set_at("shape", 1, to=2**20), set_at(*GRID, 1, to=2**20)),
    "hundred axes": together(
        set_at("shape", to=[50] + [1] * 99),
        set_at(*GRID, to=[2048] + [1] * 99),
        set_at("dimension_names", to=["row"] + ["x"] * 99),
    ),
    "axes without names": set_at("dimension_names", to=["row"]),
    "names that are no names": set_at("dimension_names", 1, to=7),
    "no axes": together(set_at("shape", to=[]), set_at("dimension_names", to=[])),
    "huge chunk": set_at(*GRID, 0, to=2**40),
    "negative chunk": set_at(*GRID, 0, to=-1),
    "empty chunk": set_at(*GRID, 0, to=0),
    "chunk as infinity": set_at(*GRID, 0, to=1e400),
    "chunks across rows": set_at(*GRID, 1, to=2),
    "chunk of other axes": set_at(*GRID, to=[2048]),
    "chunk as text": set_at(*GRID, to="2048,4"),
    "another grid": set_at("chunk_grid", "name", to="rectangular"),
    "other keys": set_at("chunk_key_encoding", "name", to="v2"),
    "objects": set_at("data_type", to="object"),
    "text": set_at("data_type", to="string"),
    "fixed text": set_at("data_type", to="<U9999999"),
    "structured": set_at("data_type", to={"name": "structured", "configuration": {}}),
    "raw": set_at("data_type", to="r8000000000"),
    "void": set_at("data_type", to="V8"),
    "pickle codec": set_at(*ZSTD, "name", to="numcodecs.pickle"),
    "codec of a list": set_at(*ZSTD, "name", to=["zstd"]),
    "no codecs": set_at("codecs", to=[]),
    "a thousand codecs": set_at("codecs", to=[{"name": "zstd"}] * 1000),
    "shard in shard": set_at("codecs", to=shard(2048, [{"name": "sharding_indexed"}])),
    "uneven shard": set_at("codecs", to=shard(2047, CHAIN)),
    "shard without chunks": set_at("codecs", to=shard(0, CHAIN)),
    "transformers": set_at("storage_transformers", to=[{"name": "x"}]),
    "attributes as a list": set_at("attributes", to=[]),
    "own as text": set_at("attributes", "geocache", to="x"),
    "negative bytes": set_at("attributes", "geocache", "bytes_per_row", to=-16),
    "infinite bytes": set_at("attributes", "geocache", "bytes_per_row", to=1e400),
    "huge unit": set_at("attributes", "geocache", "unit_rows", to=2**80),
    "packed floats": set_at("attributes", "geocache", "packed", to=True),
}


@pytest.mark.parametrize("lie", LIES)
def test_metadata_that_lies(lie: str) -> None:
    document = json.loads(array_metadata(WHOLE))
    layout_from(WHOLE.path, json.dumps(document).encode())
    LIES[lie](document)
    with pytest.raises(
        CacheError, match=r"object 'meta/arrays/targets/l/x/zarr.json' is damaged"
    ) as found:
        layout_from(WHOLE.path, json.dumps(document).encode())
    one_line(found.value)


@pytest.mark.parametrize(
    "data",
    [
        b'{"a": NaN}', b"[-Infinity]", b"[" * 1_000_000, b'{"a":' * 200_000 + b"1" + b"}" * 200_000,
        b"9" * 10_000, b"\xff\xfe", b"null", b'"text"', b"[]", b"7", b"",
    ],
    ids=lambda data: data[:12].decode("latin1"),
)  # fmt: skip
def test_json_that_is_none(data: bytes, tmp_path: Path) -> None:
    for read in (lambda: layout_from("x", data), lambda: unseal(data, "x")):
        with pytest.raises(CacheError) as found:
            read()
        one_line(found.value)
    (tmp_path / "aaaa.zarr").mkdir()
    (tmp_path / "aaaa.zarr" / "zarr.json").write_bytes(data)
    assert list_caches(tmp_path) == []
    with pytest.raises(CacheError, match="must hold a geocache cache"):
        Cache(tmp_path / "aaaa.zarr")
    with pytest.raises(CacheError, match="nothing fits"):
        find_cache(tmp_path / "aaaa.zarr", tmp_path)


@pytest.mark.parametrize(
    "path",
    ["..", "../x", "a/../../x", "/etc/x", "a//b", "", ".", "a/.hidden", "c:/x", "a\\b", "a\0b",
     "a\nb", "\x1b[2J", "meta/receipts", "a" * 201, "/".join("abcdefghi"), "x.", "nul?", "a "],
)  # fmt: skip
def test_paths_that_lead_elsewhere(path: str) -> None:
    with pytest.raises(CacheError, match="is damaged") as found:
        layout_from(path, array_metadata(WHOLE))
    one_line(found.value)
    layout_from("targets/layer1.0.conv2#2/affinity.r5", array_metadata(WHOLE))
    layout_from("targets/my~module~Class.p3", array_metadata(WHOLE))


ABOUT_LIES: dict[str, Callable[[Any], None]] = {
    "key leads elsewhere": set_at("key", to="../../etc"),
    "key steers": set_at("key", to="\x1b[2J" + "a" * 60),
    "key is a list": set_at("key", to=["a" * 64]),
    "rows beyond all": set_at("n_rows", to=2**60),
    "negative rows": set_at("n_rows", to=-1),
    "rows as text": set_at("n_rows", to="50"),
    "classes as a text": set_at("classes", to="abc"),
    "classes as numbers": set_at("classes", to=[1, 2]),
    "image of two": set_at("image_shape", to=[8, 8]),
    "huge image": set_at("image_shape", to=[2**30, 2**30, 3]),
    "negative image": set_at("image_shape", to=[-8, 8, 3]),
    "format as text": set_at("identity", "format", to="1"),
    "format zero": set_at("identity", "format", to=0),
    "mean as text": set_at("identity", "teacher", "mean", to="0.5"),
    "mean of texts": set_at("identity", "teacher", "mean", to=["x"]),
    "infinite mean": set_at("identity", "teacher", "mean", to=[1e400]),
    "identity as a list": set_at("identity", to=[]),
    "teacher as a number": set_at("identity", "teacher", to=3),
}


@pytest.mark.parametrize("lie", ABOUT_LIES)
def test_a_cache_that_lies_about_itself(tmp_path: Path, lie: str) -> None:
    folder = make_cache(tmp_path, "a")
    document = json.loads((folder / "zarr.json").read_text())
    about = document["attributes"]["geocache"]
    ABOUT_LIES[lie](about)
    about["sha256"] = "x"
    text = json.dumps(document)
    try:
        text = root_metadata(about).decode()
    except ValueError:  # Infinity has no digest.
        assert "infinite" in lie
    (folder / "zarr.json").write_text(text)
    with pytest.raises(
        CacheError, match=r"must hold a geocache cache|format must be from"
    ) as found:
        Cache(folder)
    one_line(found.value)


@pytest.mark.parametrize("part", ["teacher", "data", "views"])
def test_ls_and_show_of_a_cache_without_identity(
    tmp_path: Path, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_cache(tmp_path, "a")
    about = json.loads((folder / "zarr.json").read_text())["attributes"]["geocache"]
    about["identity"][part] = {"mean": [0.5], "std": [0.5]} if part == "teacher" else 7
    (folder / "zarr.json").write_bytes(root_metadata(about))
    assert main(["ls", "--store", str(tmp_path)]) == 0
    assert "is passed over" in capsys.readouterr().err
    assert main(["show", str(folder)]) == 1


def test_an_array_of_other_rows_than_the_caches(tmp_path: Path) -> None:
    folder = make_cache(tmp_path, "a")
    layout = ArrayLayout("valid", "bool", 2**30, (), (), 1)
    CacheWriter(folder, {}).declare(layout)
    lie = r"arrays/valid/zarr.json' is damaged: it has .* rows, the cache 50"
    with pytest.raises(CacheError, match=lie):
        _ = Cache(folder).valid


def test_nested_json_is_parsed_as_deep_as_anyone_needs() -> None:
    value: Any = 1
    for _ in range(50):
        value = {"a": [copying.copy(value)]}
    assert parse_json(json.dumps(value).encode()) == value
    assert parse_json(group_metadata({})) == {
        "zarr_format": 3, "node_type": "group", "attributes": {}
    }  # fmt: skip
