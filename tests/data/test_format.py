"""The format as docs/format.md says it: read without geocache, stays readable, newer refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geocache.data import formats
from geocache.data.cache import Cache
from geocache.data.sealed import digest_of
from geocache.errors import CacheError

FIXTURES = Path(__file__).parents[1] / "fixtures"

READER = """
import hashlib, json, sys, warnings
from pathlib import Path

class Refuse:
    def find_spec(self, name, path=None, target=None):
        assert name.partition(".")[0] != "geocache", "this program reads without geocache"

sys.meta_path.insert(0, Refuse())
warnings.simplefilter("ignore")
import numpy as np, xarray, zarr

root = Path(sys.argv[1])
about = json.loads((root / "zarr.json").read_text())["attributes"]["geocache"]
canonical = lambda d: json.dumps(d, sort_keys=True, separators=(",", ":")).encode()
assert hashlib.sha256(canonical(about["identity"])).hexdigest() == about["key"]
rest = {k: v for k, v in about.items() if k != "sha256"}
assert hashlib.sha256(canonical(rest)).hexdigest() == about["sha256"]

n_objects = 0
for path in root.glob("meta/receipts/**/*.json"):
    receipt = json.loads(path.read_text())
    layout = root / "meta" / "arrays" / receipt["array"] / "zarr.json"
    metadata = json.loads(layout.read_text())
    if metadata["dimension_names"][0] == "view":
        metadata["shape"][0] = 1
    assert hashlib.sha256(canonical(metadata)).hexdigest() == receipt["layout"]
    for key, told in receipt["objects"].items():
        data = (root / key).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (told["bytes"], told["sha256"])
        n_objects += 1

LAYER = sys.argv[2]
with xarray.open_zarr(root, group=f"targets/{LAYER}", zarr_format=3, consolidated=False) as layer:
    assert layer["mst"].dims == ("view", "row", "node")
    parents = layer["mst"].values[0].astype(int)
    decoded = layer["affinity.r2"].values[0]
    activation = layer["activation.float32"].values[0]

def mask(parents, radius):
    n = len(parents)
    hops = np.full((n, n), n)
    np.fill_diagonal(hops, 0)
    for node, parent in enumerate(parents):
        if node != parent:
            hops[node, parent] = hops[parent, node] = 1
    for via in range(n):
        hops = np.minimum(hops, hops[:, via, None] + hops[None, via])
    return (hops >= 1) & (hops <= radius)

largest = 0.0
for row in range(8):
    x = activation[row].reshape(activation.shape[1], -1).T.astype(np.float64)
    delta = ((x[:, None] - x[None]) ** 2).sum(2)
    j = (mask(parents[row], 2) * delta).sum(1) / np.maximum(delta.sum(1), 1e-300)
    largest = max(largest, float(np.abs(j - decoded[row]).max()))

group = zarr.open_group(root, mode="r")
order = [hashlib.blake2b(bytes(d), digest_size=16, key=b"geocache row order 1").digest()
         for d in group["sample_id"][:]]
assert order == sorted(order)
stored = group[f"targets/{LAYER}/activation.int8"]
rows = stored[0]
head = np.ascontiguousarray(rows[:, :, :8]).view("<f4")
codes = rows[:, :, 8:]
values = head[:, :, :1] + codes * head[:, :, 1:]
error = np.abs(values - activation.reshape(values.shape)).max(2) - head[:, :, 1] * 0.5001
assert (error <= 1e-7).all()
assert sys.modules.get("geocache") is None
print(json.dumps({"objects": n_objects, "j_error": largest, "rows": len(parents)}))
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    from geocache.data.datasets import open_dataset
    from geocache.pipeline import BuildRequest, build
    from geocache.targets import parse_target

    texts = ("mst", "affinity:radius=2", "activation:dtype=float32", "activation:dtype=int8")
    report = build(
        BuildRequest(
            dataset=open_dataset("digits"),
            model="resnet_cifar",
            options={"depth": 8},
            targets=tuple(t for text in texts for t in parse_target(f"{text}@layer2")),
            store=tmp_path_factory.mktemp("format"),
            executor="serial",
        )
    )
    return Cache(report.path)


def test_another_program_reads_it_and_rebuilds_masks_and_affinities(
    cache: Cache, tmp_path: Path
) -> None:
    """In a process that refuses to import geocache: checksums, order, a mask, J, int8."""
    ran = subprocess.run(
        [sys.executable, "-c", READER, str(cache.path), "layer2"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["rows"] == 1437 and found["objects"] >= 8
    assert found["j_error"] < 2e-5  # 16-bit fixed point and float32


@pytest.mark.parametrize("version", sorted(formats.SINCE))
def test_every_version_stays_readable(version: int) -> None:
    """The committed cache of each version reads as it did when it was written."""
    folder = FIXTURES / f"format-{version}"
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    (path,) = folder.glob("*.zarr")
    cache = Cache(path)
    assert cache.key == expected["key"] and cache.identity["format"] == version
    assert cache.labels.tolist() == expected["labels"]
    assert set(cache.target_names()) == set(expected["rows"]) - {"images"}
    for name, rows in expected["rows"].items():
        read = cache.read(name, 0, 2).astype(np.float64)
        assert np.allclose(read, rows, rtol=0, atol=1e-6), name
    assert cache.eval_images is not None and cache.mask("stage1", radius=2).any()


def _rewrite(path: Path, **changes: Any) -> None:
    document = json.loads((path / "zarr.json").read_text())
    about = document["attributes"]["geocache"]
    about["identity"] |= changes.pop("identity", {})
    about |= changes
    about["sha256"] = digest_of(about)
    (path / "zarr.json").write_text(json.dumps(document))


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A copy of the oldest fixture's root document."""
    (path,) = (FIXTURES / "format-1").glob("*.zarr")
    (tmp_path / "c.zarr").mkdir()
    (tmp_path / "c.zarr" / "zarr.json").write_bytes((path / "zarr.json").read_bytes())
    return tmp_path / "c.zarr"


def test_a_newer_format_is_refused_with_the_version_that_reads_it(old: Path) -> None:
    _rewrite(old, identity={"format": 2}, readable_since="0.7.0")
    with pytest.raises(CacheError, match=r"at most 1, got 2 .*Read it with geocache 0\.7\.0"):
        Cache(old)


def test_an_older_format_is_brought_up_as_it_is_read(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path that the next version takes, with a step of our own."""
    _rewrite(old, n_rows="twenty-four")
    monkeypatch.setattr(formats, "FORMAT_VERSION", 2)
    with pytest.raises(CacheError, match="must be from 1 to 2, got 1"):
        Cache(old)
    monkeypatch.setitem(formats.MIGRATIONS, 1, lambda about: {**about, "n_rows": 24})
    assert Cache(old).n_rows == 24
