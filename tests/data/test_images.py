"""Images are decoded as viewers show them, brought to one size, and bad ones are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms
from torchvision.transforms import v2

from geocache.data.datasets import open_dataset
from geocache.data.images import ImageSpec, decode, decode_file, image_size, read_rows
from geocache.errors import ConfigError, DataError

ORIENTATION = 0x0112


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def stored(image: Image.Image, path: Path, **options: object) -> np.ndarray:
    image.save(path, **options)
    return decode_file(str(path))


def test_grey_and_black_and_white(tmp_path: Path) -> None:
    grey = noise(4, 6)
    expected = np.repeat(grey[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(stored(Image.fromarray(grey), tmp_path / "g.png"), expected)
    bits = Image.fromarray(grey > 127)
    np.testing.assert_array_equal(
        stored(bits, tmp_path / "b.png"), np.where(expected > 127, 255, 0)
    )


def test_palette(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "P")
    colours = np.array([[10, 20, 30], [200, 0, 5], [7, 8, 9]], np.uint8)
    image.putpalette(colours.tobytes())
    expected = colours[[[0, 1], [2, 1]]]
    np.testing.assert_array_equal(stored(image, tmp_path / "p.png"), expected)
    # Entry 1 transparent: it lies on white.
    expected[expected[..., 0] == 200] = 255
    np.testing.assert_array_equal(
        stored(image, tmp_path / "t.png", transparency=b"\xff\x00\xff"), expected
    )
    np.testing.assert_array_equal(stored(image, tmp_path / "t.gif", transparency=1), expected)


def test_alpha_lies_on_white(tmp_path: Path) -> None:
    rgba = np.array([[[100, 0, 50, 255], [100, 0, 50, 0], [100, 0, 50, 51]]], np.uint8)
    # alpha 51 = 1/5: 100/5 + 255 * 4/5 = 224, 0 + 204, 10 + 204.
    expected = np.array([[[100, 0, 50], [255, 255, 255], [224, 204, 214]]], np.uint8)
    np.testing.assert_array_equal(stored(Image.fromarray(rgba), tmp_path / "a.png"), expected)
    grey = Image.fromarray(np.array([[[100, 255], [100, 0], [100, 51]]], np.uint8), "LA")
    np.testing.assert_array_equal(
        stored(grey, tmp_path / "la.png")[0, :, 0], np.array([100, 255, 224])
    )
    opaque = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    np.testing.assert_array_equal(
        stored(opaque, tmp_path / "t.png", transparency=(4, 5, 6)),
        np.array([[[1, 2, 3], [255, 255, 255]]]),
    )


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey(tmp_path: Path, suffix: str) -> None:
    deep = np.array([[0, 128, 129, 257 * 100], [65535, 65407, 65406, 257]], np.uint16)
    # v / 257 to the nearest: 128/257 < 1/2 < 129/257; 65406 = 254 * 257 + 128.
    expected = np.array([[0, 0, 1, 100], [255, 255, 254, 1]], np.uint8)
    image = stored(Image.fromarray(deep), tmp_path / f"d.{suffix}")
    np.testing.assert_array_equal(image, np.repeat(expected[:, :, None], 3, axis=2))


def test_integers_beyond_16_bits_and_floats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"i\.tif .*0 .. 65535, got 0 .. 70000"):
        stored(Image.fromarray(np.array([[0, 70000]], np.int32)), tmp_path / "i.tif")
    with pytest.raises(DataError, match=r"f\.tif .*32-bit floats"):
        stored(Image.fromarray(np.zeros((2, 2), np.float32)), tmp_path / "f.tif")


def test_cmyk(tmp_path: Path) -> None:
    cmyk = np.zeros((8, 8, 4), np.uint8)
    cmyk[..., 1:3] = 255  # magenta and yellow: red
    for suffix in ("tif", "jpg"):
        image = stored(Image.fromarray(cmyk, "CMYK"), tmp_path / f"c.{suffix}", quality=100)
        assert np.abs(image.astype(int) - [255, 0, 0]).max() <= 2


def test_lab_and_ycbcr_become_rgb(tmp_path: Path) -> None:
    image = Image.fromarray(noise(8, 8, 3)).resize((32, 32))
    there = stored(image.convert("YCbCr"), tmp_path / "y.tif")
    assert np.abs(there.astype(int) - np.asarray(image)).max() <= 3
    to_lab = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
    )
    lab = ImageCms.applyTransform(image, to_lab)
    assert np.abs(decode(lab).astype(int) - np.asarray(image)).mean() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(tmp_path: Path, orientation: int) -> None:
    upright = noise(4, 6, 3)
    # What a camera stores so that each orientation shows `upright` (EXIF 2.3, tag 0x0112).
    as_stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image = Image.fromarray(np.ascontiguousarray(as_stored))
    np.testing.assert_array_equal(stored(image, tmp_path / "e.png", exif=exif), upright)


def test_first_frame_of_several(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    image = stored(frames[0], tmp_path / "f.tif", save_all=True, append_images=frames[1:])
    assert (image == [255, 0, 0]).all()


def test_square_size_equals_torchvision() -> None:
    for shape in ((40, 61, 3), (61, 40, 3), (20, 20, 3), (33, 32, 3), (32, 50, 3)):
        image = noise(*shape)
        reference = v2.Compose([v2.Resize(32, antialias=True), v2.CenterCrop(32)])
        expected = np.asarray(reference(Image.fromarray(image)))
        np.testing.assert_array_equal(ImageSpec((32, 32)).apply(image), expected)


@pytest.mark.parametrize("shape", [(40, 61), (7, 90), (90, 7), (3, 3), (30, 20), (61, 40)])
@pytest.mark.parametrize("size", [(30, 20), (20, 30), (1, 1)])
def test_every_size_is_reached(shape: tuple[int, int], size: tuple[int, int]) -> None:
    assert ImageSpec(size).apply(noise(*shape, 3)).shape == (*size, 3)


def test_an_image_of_the_size_is_not_touched() -> None:
    image = noise(30, 20, 3)
    np.testing.assert_array_equal(ImageSpec((30, 20)).apply(image), image)


def test_spec_is_checked_and_told_apart() -> None:
    assert ImageSpec((8, 8)).to_json() != ImageSpec().to_json()
    with pytest.raises(ConfigError, match=r"size must be .* got \(0, 8\)"):
        ImageSpec((0, 8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six images of 8 x 8, red value = number, and two that cannot be read."""
    for number in range(8):
        path = tmp_path / "images" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
    (tmp_path / "images" / "a" / "2.png").write_bytes(b"no image")
    cut = tmp_path / "images" / "b" / "5.png"
    cut.write_bytes(cut.read_bytes()[:-30])
    return tmp_path / "images"


@pytest.mark.parametrize("threads", [1, 3])
def test_bad_images_are_named_and_left_black(folder: Path, threads: int) -> None:
    dataset = open_dataset(f"imagefolder:{folder}")  # a: 0 2 4 6, b: 1 3 5 7
    images, bad = read_rows(dataset, [6, 1, 0, 7, 5], ImageSpec(), threads)
    assert images[:, 0, 0, 0].tolist() == [0, 0, 0, 7, 3]
    assert list(bad) == [0, 1]
    assert str(folder / "b" / "5.png") in bad[0]
    assert str(folder / "a" / "2.png") in bad[1]
    assert "--skip-bad" in bad[1]
    with pytest.raises(DataError, match=r"5\.png must be a readable image"):
        dataset.read(6)


def test_all_bad_keeps_the_size_that_is_known(folder: Path) -> None:
    dataset = open_dataset(f"imagefolder:{folder}")
    assert image_size(dataset, ImageSpec()) == (8, 8)
    for images, bad in (
        read_rows(dataset, [1, 6], ImageSpec(), 2, size=(8, 8)),
        read_rows(dataset, [1, 6], ImageSpec((8, 8)), 2),
    ):
        assert images.shape == (2, 8, 8, 3)
        assert list(bad) == [0, 1]


@pytest.mark.parametrize("threads", [1, 3])
def test_sizes_that_differ_are_named(folder: Path, threads: int) -> None:
    odd = folder / "b" / "3.png"
    Image.new("RGB", (9, 5)).save(odd)
    dataset = open_dataset(f"imagefolder:{folder}")
    with pytest.raises(DataError) as caught:
        read_rows(dataset, range(8), ImageSpec(), threads)
    message = str(caught.value)
    assert f"got 5 x 9 in {odd} and 8 x 8 in {folder / 'a' / '0.png'}" in message
    assert "size = [8, 8] in [data], or --size 8,8" in message
    with pytest.raises(DataError, match=r"got 5 x 9 in .*3\.png and 8 x 8 in the other images"):
        read_rows(dataset, [5], ImageSpec(), threads, size=(8, 8))
    images, bad = read_rows(dataset, range(8), ImageSpec((8, 8)), threads)
    assert images.shape == (8, 8, 8, 3)
    assert sorted(bad) == [1, 6]


def test_no_image_can_be_read(folder: Path) -> None:
    for path in folder.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="must hold at least one readable image"):
        image_size(open_dataset(f"imagefolder:{folder}"), ImageSpec())
