"""From a stored image to the pixels a teacher sees: 8-bit RGB of one size, decoded in parallel.

Decoding follows what image viewers show: EXIF rotation is applied, palettes are looked up, grey is
repeated, 16-bit grey is scaled to 8 bits, transparency lies on white. Pillow decodes outside the
interpreter lock, so a thread pool is enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from geocache.data.dataset import ImageDataset
from geocache.errors import ConfigError, DataError

__all__ = ["ImageSpec", "decode", "decode_file", "image_size", "read_rows"]

CHUNKS_PER_THREAD = 4


@dataclass(frozen=True)
class ImageSpec:
    """How images are brought to one size.

    `size` is (height, width) in pixels; None keeps the stored size, which must then be one for all.
    Otherwise an image is scaled, keeping its shape, to the smallest that covers `size` (antialiased
    bilinear; for a square size the shorter side becomes it) and cut around its centre. An image
    that has the size already is not touched.
    """

    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        """Raise ConfigError unless `size` is two positive numbers."""
        if self.size is not None and min(self.size) < 1:
            raise ConfigError(f"size must be (height, width) in pixels, got {self.size}.")

    def to_json(self) -> dict[str, Any]:
        """Return what identifies the pixels that come out, for a cache's identity."""
        return {"size": list(self.size) if self.size else None, "resize": "bilinear-cover-crop"}

    def apply(
        self, image: UInt8[np.ndarray, "height width 3"]
    ) -> UInt8[np.ndarray, "out_height out_width 3"]:
        """Return `image` at the size asked for."""
        if self.size is None or image.shape[:2] == self.size:
            return image
        height, width = self.size
        old_height, old_width = image.shape[:2]
        if height * old_width >= width * old_height:
            scaled_height, scaled_width = height, max(width, height * old_width // old_height)
        else:
            scaled_height, scaled_width = max(height, width * old_height // old_width), width
        scaled = Image.fromarray(image).resize(
            (scaled_width, scaled_height), Image.Resampling.BILINEAR
        )
        top = round((scaled_height - height) / 2)
        left = round((scaled_width - width) / 2)
        return np.array(scaled.crop((left, top, left + width, top + height)))


def decode(image: Image.Image) -> UInt8[np.ndarray, "height width 3"]:
    """Return a Pillow image of any integer mode as 8-bit RGB, as a viewer would show it.

    The first frame of several is taken. Raises DataError for floating-point pixels and for integers
    beyond 16 bits, whose white point is unknown.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise DataError("pixels must be integers of 8 or 16 bits, got 32-bit floats")
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise DataError(f"grey values must lie in 0 .. 65535, got {grey.min()} .. {grey.max()}")
        # 65535 / 257 = 255: white stays white, and + 128 rounds to the nearest.
        return np.repeat(((grey + 128) // 257).astype(np.uint8)[:, :, None], 3, axis=2)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, layer)
    return np.array(image.convert("RGB"))


def decode_file(path: str) -> UInt8[np.ndarray, "height width 3"]:
    """Return the image file `path` as 8-bit RGB; raises DataError, naming it, if that fails."""
    try:
        with Image.open(path) as image:
            return decode(image)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise anything from SyntaxError to struct.error
        raise DataError(
            f"{path} must be a readable image, got {type(error).__name__}: {error}. "
            "Replace it, or leave it out with --skip-bad."
        ) from error


def image_size(dataset: ImageDataset, spec: ImageSpec) -> tuple[int, int]:
    """Return (height, width) of the images that `spec` makes, reading the first good one if needed.

    Raises DataError if no image can be read.
    """
    if spec.size is not None:
        return spec.size
    first_error: DataError | None = None
    for index in range(len(dataset)):
        try:
            height, width, _ = dataset.read(index).shape
            return height, width
        except DataError as error:
            first_error = first_error or error
    raise DataError(
        f"{dataset.name}/{dataset.split} must hold at least one readable image, got {first_error}"
    )


def read_rows(
    dataset: ImageDataset,
    indices: Sequence[int] | np.ndarray,
    spec: ImageSpec,
    threads: int,
    *,
    size: tuple[int, int] | None = None,
) -> tuple[UInt8[np.ndarray, "b height width 3"], dict[int, str]]:
    """Return the images at `indices`, decoded by `threads` threads, and the unreadable ones.

    The second value maps a position in `indices` to the reason; its pixels are zeros. `size`
    (height, width), if known, is what all must have; otherwise the first readable one sets it.

    Raises DataError, naming two samples, if images differ in size and `spec` does not resize.
    """
    order = [int(index) for index in indices]
    bad: dict[int, str] = {}
    size = spec.size or size
    reference = "the other images of the data set"
    for position, index in enumerate(order):
        if size is not None:
            break
        try:
            size = dataset.read(index).shape[:2]
            reference = dataset.where(index)
        except DataError as error:
            bad[position] = str(error)
    height, width = size or (0, 0)
    images = np.zeros((len(order), height, width, 3), np.uint8)

    def fill(positions: range) -> None:
        for position in positions:
            if position in bad:
                continue
            try:
                image = spec.apply(dataset.read(order[position]))
            except DataError as error:
                bad[position] = str(error)
                continue
            if image.shape[:2] != (height, width):
                raise _SizeMismatchError(position, image.shape[:2])
            images[position] = image

    workers = max(1, threads) if dataset.parallel_reads else 1
    step = max(1, -(-len(order) // (workers * CHUNKS_PER_THREAD)))
    chunks = [range(start, min(start + step, len(order))) for start in range(0, len(order), step)]
    try:
        if workers == 1:
            for chunk in chunks:
                fill(chunk)
        else:
            with ThreadPoolExecutor(workers) as pool:
                for _ in pool.map(fill, chunks):
                    pass
    except _SizeMismatchError as found:
        raise DataError(
            f"images must have one size, got {found.size[0]} x {found.size[1]} in "
            f"{dataset.where(order[found.position])} and {height} x {width} in {reference}. "
            f"Resize them: size = [{height}, {width}] in [data], or --size {height},{width}."
        ) from None
    return images, dict(sorted(bad.items()))


class _SizeMismatchError(Exception):
    def __init__(self, position: int, size: tuple[int, int]) -> None:
        super().__init__(position, size)
        self.position = position
        self.size = size
