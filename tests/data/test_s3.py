"""Objects in a bucket: the same verbs, conditional creation, lost replies, refusals in one line."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from s3_server import SECRET, Proxy

import geocache.data.s3_access
from geocache.data.cache import Cache
from geocache.data.catalog import find_cache, list_caches
from geocache.data.layout import ArrayLayout
from geocache.data.objects import open_objects
from geocache.data.s3 import S3Objects, _mark
from geocache.data.writer import CacheWriter, create_cache
from geocache.errors import CacheError, ConfigError, GeocacheError, StorageError

N_ROWS = 5000
LAYOUT = ArrayLayout(
    "targets/l/mst", "uint8", N_ROWS, (4,), ("node",), 4, attributes={"geocache": {"kind": "mst"}}
)


def about(key: str = "k" * 64) -> dict[str, Any]:
    return {
        "key": key,
        "identity": {"format": 1, "teacher": {"mean": [0.5] * 3, "std": [0.2] * 3}},
        "classes": ["a", "b"],
        "n_rows": N_ROWS,
        "image_shape": [8, 8, 3],
        "probe": [[1.0]],
    }


def rows(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 4, (N_ROWS, 4)).astype(np.uint8)


@pytest.fixture
def objects(bucket: str) -> S3Objects:
    return S3Objects(f"{bucket}/some/store/")


@pytest.fixture
def few_retries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give up soon where nothing ever answers."""
    monkeypatch.setitem(geocache.data.s3_access.RETRY, "max_retries", 1)
    geocache.data.s3_access._store.cache_clear()
    yield
    geocache.data.s3_access._store.cache_clear()


def test_the_verbs_of_a_folder(objects: S3Objects) -> None:
    assert objects.names("a") == [] and objects.walk() == []
    assert not objects.exists("a/b/c")
    objects.put("a/b/c", b"one")
    objects.put("a/b/d", b"")
    objects.put("a/b/c", b"two!")
    objects.put("ab", b"a sibling with the same front")
    assert objects.get("a/b/c") == b"two!"
    assert objects.get("a/b/d") == b""
    assert objects.exists("a/b/c") and not objects.exists("a/b")
    assert objects.names("") == ["a", "ab"]
    assert objects.names("a") == ["b"]
    assert objects.names("a/b") == ["c", "d"]
    assert objects.walk("a") == [("a/b/c", 4), ("a/b/d", 0)]
    assert len(objects.walk()) == 3
    objects.delete("a/b/c")
    objects.delete("a/b/c")
    assert objects.names("a/b") == ["d"]
    with pytest.raises(CacheError, match=r"object 'a/b/c' must exist, .* missing \(in s3://"):
        objects.get("a/b/c")


def test_a_whole_bucket_is_a_store_too(bucket: str) -> None:
    objects = open_objects(bucket)
    objects.put("a/b", b"x")
    assert objects.names("") == ["a"] and objects.walk() == [("a/b", 1)]


def test_the_second_of_two_writers_creates_nothing(objects: S3Objects) -> None:
    other = S3Objects(objects.root)
    assert objects.create("a/receipt", b"first") is True
    assert other.create("a/receipt", b"second") is False
    assert objects.get("a/receipt") == b"first"


@pytest.mark.parametrize("key", ["../x", "a/../b", "a//b", "/a", "a/", "a/./b", "a\\b", "a\0b"])
def test_keys_that_lead_elsewhere_are_refused(objects: S3Objects, key: str) -> None:
    for verb in (
        objects.get,
        objects.exists,
        objects.delete,
        objects.names,
        objects.walk,
        lambda key: objects.put(key, b"x"),
        lambda key: objects.create(key, b"x"),
    ):
        with pytest.raises(CacheError, match="object key must be plain names"):
            verb(key)
    assert objects.walk() == []


def test_a_bucket_with_a_hostile_name_in_it(objects: S3Objects, s3_server: str) -> None:
    name = objects.root.removeprefix("s3://")
    place = f"{s3_server}/{name}/meta/%2E%2E/%2E%2E/up"
    with urllib.request.urlopen(urllib.request.Request(place, data=b"1", method="PUT")):
        pass
    with pytest.raises(CacheError, match="one that leads elsewhere under 'meta'"):
        objects.walk("meta")


@pytest.mark.parametrize(
    "address", ["s3://", "s3:///x", "s3://b/../c", "s3://b//c", f"s3://AKID:{SECRET}@b/x"]
)
def test_an_address_that_is_none(bucket: str, address: str) -> None:
    with pytest.raises(ConfigError, match=r"must be s3://BUCKET/PREFIX") as caught:
        open_objects(address)
    assert SECRET not in str(caught.value)


def test_a_lost_reply_to_a_creation_is_recognised(bucket: str, proxy: Proxy) -> None:
    proxy.lose = lambda request: request.method == "PUT" and request.number == 0
    objects = S3Objects(bucket)
    assert objects.create("receipt", b"ours") is True
    assert objects.get("receipt") == b"ours"


@pytest.mark.usefixtures("few_retries")
def test_a_creation_of_which_no_reply_ever_comes_is_recognised(bucket: str, proxy: Proxy) -> None:
    proxy.lose = lambda request: request.method == "PUT"
    assert S3Objects(bucket).create("receipt", b"ours") is True


@pytest.mark.usefixtures("few_retries")
def test_a_lost_reply_is_not_taken_for_anothers_success(bucket: str, proxy: Proxy) -> None:
    objects = S3Objects(bucket)
    objects.put("receipt", b"theirs")
    proxy.lose = lambda request: request.method == "PUT"
    assert objects.create("receipt", b"ours") is False
    assert objects.get("receipt") == b"theirs"


def test_a_lost_reply_to_a_replacement_is_repeated(bucket: str, proxy: Proxy) -> None:
    proxy.lose = lambda request: request.number == 0
    objects = S3Objects(bucket)
    objects.put("object", b"ours")
    assert objects.get("object") == b"ours"
    assert proxy.count("PUT") == 2


def test_every_reply_of_a_commit_may_be_lost(bucket: str, proxy: Proxy) -> None:
    """One run for each request of a commit: the same objects and one receipt, every time."""
    reference = f"{bucket}/reference"
    group = LAYOUT.groups()[0]

    def commit(address: str) -> dict[str, bytes]:
        create_cache(address, about())
        writer = CacheWriter(address, {"device": "cpu"})
        writer.declare(LAYOUT)
        writer.commit(LAYOUT, group, rows()[: group.stop])
        return {key: writer.objects.get(key) for key, _ in writer.objects.walk()}

    proxy.requests.clear()
    expected = commit(reference)
    n_requests = proxy.count() - len(expected) - 1
    assert n_requests >= 4 and LAYOUT.receipt_key(group) in expected
    for lost in range(n_requests):
        proxy.requests.clear()
        proxy.lose = lambda request, lost=lost: request.number == lost
        assert commit(f"{bucket}/lost-{lost}") == expected


def test_a_busy_server_is_asked_again(bucket: str, proxy: Proxy) -> None:
    proxy.refuse = lambda request: 503 if request.number < 2 else 0
    objects = S3Objects(bucket)
    assert objects.create("receipt", b"ours") is True
    assert objects.get("receipt") == b"ours"


def test_no_credentials(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StorageError, match=r"got no AWS_SECRET_ACCESS_KEY\. Set AWS_ACCESS_KEY_ID"):
        open_objects(bucket)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(StorageError, match="no AWS_ACCESS_KEY_ID and no AWS_SECRET_ACCESS_KEY"):
        open_objects(bucket)
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    assert open_objects(bucket).walk() == []


def test_no_such_bucket(bucket: str) -> None:
    absent = open_objects("s3://no-such-bucket/x")
    for verb in (
        lambda: absent.put("a", b"x"),
        lambda: absent.create("a", b"x"),
        lambda: absent.get("a"),
        lambda: absent.names(""),
        lambda: absent.walk(),
    ):
        with pytest.raises(StorageError, match=r"'no-such-bucket' must exist, .*Create it, or"):
            verb()
    with pytest.raises(StorageError, match="'no-such-bucket' must exist"):
        find_cache("abcd1234", "s3://no-such-bucket/x")


def test_access_denied(bucket: str, s3_server: str) -> None:
    objects = open_objects(bucket)
    objects.put("a", b"x")

    def allow(first: str) -> None:
        """Let moto grant so many requests before it asks for rights."""
        place = f"{s3_server}/moto-api/reset-auth"
        plain = {"Content-Type": "text/plain"}
        request = urllib.request.Request(place, data=first.encode(), headers=plain)
        with urllib.request.urlopen(request):
            pass

    allow("0")
    try:
        for verb in (
            lambda: objects.put("a", b"x"),
            lambda: objects.create("a", b"x"),
            lambda: objects.get("a"),
            lambda: objects.exists("a"),
            lambda: objects.delete("a"),
            lambda: objects.names(""),
            lambda: objects.walk(),
            lambda: list_caches(bucket),
        ):
            with pytest.raises(StorageError, match=r"must be granted, got 403.*AWS_ACCESS_KEY_ID"):
                verb()
    finally:
        allow("inf")


@pytest.mark.usefixtures("few_retries")
def test_nobody_answers(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    objects = open_objects(bucket)
    for verb in (lambda: objects.get("a"), lambda: objects.create("a", b"x"), objects.walk):
        with pytest.raises(StorageError, match=r"must be in reach, .*127.0.0.1:9 .*AWS_ENDPOINT"):
            verb()


@pytest.mark.usefixtures("few_retries")
@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 500, 503])
def test_no_error_tells_a_secret(
    bucket: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    host = proxy.endpoint.removeprefix("http://")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://user:{SECRET.replace('/', '.')}@{host}")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "session" + SECRET)
    objects = open_objects(bucket)
    proxy.refuse = lambda request: status
    said = []
    for verb in (
        lambda: objects.put(f"a{SECRET}", b"x"),
        lambda: objects.create("a", b"x"),
        lambda: objects.get("a"),
        lambda: objects.names(""),
    ):
        with pytest.raises(GeocacheError) as caught:
            verb()
        error: BaseException | None = caught.value
        while error is not None:
            said.append(str(error))
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    assert said and all("\n" not in text and len(text) < 600 for text in said)
    for secret in (SECRET, SECRET.replace("/", "."), "session", "AKIDEXAMPLE"):
        assert not [text for text in said if secret in text]


def test_a_cache_of_40_arrays_opens_with_few_requests(bucket: str, proxy: Proxy) -> None:
    """Its document, one list, and the arrays' metadata side by side; a group costs two requests."""
    create_cache(bucket, about())
    writer = CacheWriter(bucket, {})
    layouts = [
        ArrayLayout(f"targets/l{n}/mst", "uint8", N_ROWS, (4,), ("node",), 4, n_views=1,
                    attributes={"geocache": {"kind": "mst"}})
        for n in range(40)
    ]  # fmt: skip
    for n, layout in enumerate(layouts):
        writer.declare(layout)
        for group in layout.groups() if n == 7 else layout.groups()[:1]:
            writer.commit(layout, group, rows(n)[group.start : group.stop])
    proxy.requests.clear()
    cache = Cache(bucket)
    assert len(cache.target_names()) == 40
    assert (cache.n_built("l7/mst"), cache.n_built("l39/mst")) == (N_ROWS, 2048)
    assert proxy.count() == 1 + 1 + 40
    proxy.requests.clear()
    assert np.array_equal(cache.read("l7/mst", 0, N_ROWS), rows(7))
    assert proxy.count() == 2 * len(layouts[7].groups())


def test_a_reader_looks_again_for_what_is_built_meanwhile(bucket: str) -> None:
    create_cache(bucket, about())
    writer = CacheWriter(bucket, {})
    writer.declare(LAYOUT)
    first, second, _ = LAYOUT.groups()
    writer.commit(LAYOUT, first, rows()[: first.stop])
    cache = Cache(bucket)
    assert cache.n_built("l/mst") == first.stop
    writer.commit(LAYOUT, second, rows()[second.start : second.stop])
    assert np.array_equal(cache.read("l/mst", 0, second.stop), rows()[: second.stop])
    with pytest.raises(CacheError, match="are not built"):
        cache.read("l/mst", 0, N_ROWS)


def test_a_reader_meets_a_group_that_has_grown(bucket: str) -> None:
    """It knows the short receipt alone, and finds the long one."""
    create_cache(bucket, about())
    writer = CacheWriter(bucket, {})
    writer.declare(LAYOUT)
    (short,), whole = LAYOUT.groups(stop=100), LAYOUT.groups()[0]
    writer.commit(LAYOUT, short, rows()[:100])
    cache = Cache(bucket)
    assert cache.n_built("l/mst") == 100
    writer.commit(LAYOUT, whole, rows()[: whole.stop])
    assert np.array_equal(cache.read("l/mst", 0, 100), rows()[:100])


def test_an_object_is_hashed_once_by_its_entity_tag(bucket: str) -> None:
    """One that was exchanged since has another tag, and is held against its receipt again."""
    create_cache(bucket, about())
    writer = CacheWriter(bucket, {})
    writer.declare(LAYOUT)
    first, second, _ = LAYOUT.groups()
    for group in (first, second):
        writer.commit(LAYOUT, group, rows()[group.start : group.stop])
    cache = Cache(bucket)
    for _ in range(3):
        assert np.array_equal(cache.read("l/mst", 0, first.stop), rows()[: first.stop])
    assert cache.reader.n_hashed == 1
    writer.objects.put(LAYOUT.object_key(first), writer.objects.get(LAYOUT.object_key(second)))
    with pytest.raises(CacheError, match="not the one that its receipt describes"):
        cache.read("l/mst", 0, first.stop)


def test_weak_entity_tags_vouch_for_nothing() -> None:
    assert _mark({"e_tag": '"abc"', "version": None, "size": 3}) == ('"abc"', None, 3)
    for tag in (None, "", 'W/"abc"'):
        assert _mark({"e_tag": tag, "version": None, "size": 3}) is None


def test_two_writers_of_one_group(bucket: str) -> None:
    """Other last bits: what is committed stays, and its receipt describes it."""
    create_cache(bucket, about())
    first, second = CacheWriter(bucket, {"n": 1}), CacheWriter(bucket, {"n": 2})
    for writer in (first, second):
        writer.declare(LAYOUT)
    group = LAYOUT.groups()[0]
    first.commit(LAYOUT, group, rows(0)[: group.stop])
    second.commit(LAYOUT, group, rows(1)[: group.stop])
    assert np.array_equal(Cache(bucket).read("l/mst", 0, group.stop), rows(0)[: group.stop])


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_damage_is_named(bucket: str, damage: str) -> None:
    create_cache(bucket, about())
    writer = CacheWriter(bucket, {})
    writer.declare(LAYOUT)
    for group in LAYOUT.groups():
        writer.commit(LAYOUT, group, rows()[group.start : group.stop])
    key = LAYOUT.object_key(LAYOUT.groups()[1])
    data = bytearray(writer.objects.get(key))
    data[len(data) // 2] ^= 4
    if damage == "delete":
        writer.objects.delete(key)
    else:
        writer.objects.put(key, bytes(data) if damage == "flip" else bytes(data[:-9]))
    cache = Cache(bucket)
    assert cache.read("l/mst", 0, 2048).shape == (2048, 4)
    with pytest.raises(CacheError, match=rf"object '{key}' is damaged: .*--repair"):
        cache.read("l/mst", 0, N_ROWS)


def test_a_folder_named_like_a_bucket_is_a_folder(tmp_path: Path) -> None:
    assert not open_objects(tmp_path / "s3:").distant
