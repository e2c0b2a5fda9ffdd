"""Image files to pixels: checked before memory is taken, with an error that names the file."""

import io
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from archgrad.data.augment import channel_histogram
from archgrad.data.listing import StoredImage
from archgrad.errors import DataError

MAX_PIXELS = 50_000_000
"""Largest width times height that is decoded."""

LARGEST_SIDE = 4096
"""Largest height and width in pixels that images are brought to."""

_FORMATS = (
    "JPEG",
    "PNG",
    "BMP",
    "GIF",
    "WEBP",
    "PPM",
    "TIFF",
    "AVIF",
)  # not, for example, EPS, which starts an interpreter
_ORIENTATION = 0x0112  # EXIF
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_GREY_MODES = ("1", "L", "LA", "La")
_CHUNK_BYTES = 2**21  # small, as a container's shared memory is
_WORTH_WORKERS = 2000  # files; starting processes takes as long as reading a few hundred


class ImageFiles(Dataset):
    """Images decoded when asked for, as uint8 tensors of one size.

    Args:
        images: (N) where they are.
        targets: (N,) int64.
        image_size: Height and width of the tensors in pixels.
        channels: 1 for grey, 3 for colour.
    """

    def __init__(self, images: Sequence[StoredImage], targets: Tensor, *, image_size: int, channels: int) -> None:
        self.images, self.targets = list(images), targets
        self.image_size, self.channels = image_size, channels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        pixels, _ = decode(self.images[index], image_size=self.image_size, channels=self.channels)
        return torch.from_numpy(pixels), int(self.targets[index])


class Header(NamedTuple):
    """What is known of an image before it is decoded."""

    side: int
    """Its shorter side in pixels."""

    colour: bool
    """Whether it has more than shades of grey."""

    cut: float
    """Share of its longer side that its central square leaves out, from 0 to below 1."""


def read_header(stored: StoredImage) -> Header:
    """Read an image's header without decoding it.

    Raises:
        DataError: It is no image, or one that is refused.
    """
    with _opened(stored) as image:
        return _header_of(image)


def decode(stored: StoredImage, *, image_size: int, channels: int) -> tuple[np.ndarray, Header]:
    """Decode an image, upright; one of another size is cut to its central square and resized (bilinear, antialiased).

    Args:
        stored: Where it is.
        image_size: Height and width of the result in pixels.
        channels: 1 for grey, 3 for colour.

    Returns:
        (channels, image_size, image_size) uint8, and the header.

    Raises:
        DataError: It is no image, corrupt, or refused.
    """
    with _opened(stored) as image:
        header = _header_of(image)
        image = _upright(image)
        if "transparency" in image.info:
            image = image.convert("RGBA")
        mode = "RGB" if channels == 3 else "L"
        if image.mode != mode:
            image = image.convert(mode)
        if image.size != (image_size, image_size):
            left, top = (image.width - header.side) // 2, (image.height - header.side) // 2
            box = (left, top, left + header.side, top + header.side)
            # Cut first: with resize(box=...), pixels beside the box would shine through.
            image = image.crop(box).resize((image_size, image_size), Image.Resampling.BILINEAR)
        pixels = np.asarray(image)
    return (pixels.transpose(2, 0, 1) if channels == 3 else pixels[None]).copy(), header


def _header_of(image: Image.Image) -> Header:
    side = min(image.size)
    return Header(side, image.mode not in _GREY_MODES, 1 - side / max(image.size))


def _upright(image: Image.Image) -> Image.Image:
    """Return the image as its camera was held, which EXIF tells."""
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF, which tells nothing
        return image
    return image if turn is None else image.transpose(turn)


@contextmanager
def _opened(stored: StoredImage) -> Iterator[Image.Image]:
    try:
        with open(stored.path, "rb") as file:
            source: Any = file
            if stored.offset:
                file.seek(stored.offset)
                source = io.BytesIO(file.read(stored.length))
            with Image.open(source, formats=_FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise DataError(
                        f"{stored.name} is refused: it has {image.width} x {image.height} pixels, and at most "
                        f"{MAX_PIXELS:,} are decoded. Shrink it, or leave it out."
                    )
                if image.mode.startswith(("I", "F")):
                    raise DataError(
                        f"{stored.name} has more than 8 bits a channel ({image.mode}). Convert it to 8 bits."
                    )
                yield image
    except DataError:
        raise
    except Exception as error:  # a decoder fed with garbage raises nearly anything: OSError, SyntaxError, ...
        raise DataError(f"{stored.name} cannot be read as an image: {error}. Restore it, or leave it out.") from error


def read_headers(images: Sequence[StoredImage]) -> list[Header]:
    """Read the headers of many images, on all cores; results as `read_header`, in order."""
    return [
        header for headers in _on_all_cores(_read_headers, _chunks(images, 4096), len(images)) for header in headers
    ]


def decode_all(images: Sequence[StoredImage], *, image_size: int, channels: int) -> tuple[Tensor, list[Header]]:
    """Decode many images, on all cores.

    Args:
        images: (N) where they are.
        image_size: Height and width in pixels.
        channels: 1 for grey, 3 for colour.

    Returns:
        (N, channels, image_size, image_size) uint8, and the N headers.

    Raises:
        DataError: One cannot be decoded.
    """
    decoded = torch.empty(len(images), channels, image_size, image_size, dtype=torch.uint8)
    chunks = _chunks(images, channels * image_size**2)
    work = partial(_decode_chunk, image_size=image_size, channels=channels)
    headers: list[Header] = []
    for pixels, of_chunk in _on_all_cores(work, chunks, len(images)):
        decoded[len(headers) : len(headers) + len(pixels)] = pixels
        headers += of_chunk
    return decoded, headers


def pixel_histogram(images: Sequence[StoredImage], *, image_size: int, channels: int) -> Tensor:
    """Count how often each pixel value occurs in many images, on all cores, without keeping them.

    Args:
        images: (N) where they are.
        image_size: Height and width in pixels.
        channels: 1 for grey, 3 for colour.

    Returns:
        (channels, 256) int64.

    Raises:
        DataError: One cannot be decoded.
    """
    chunks = _chunks(images, channels * image_size**2)
    work = partial(_chunk_histogram, image_size=image_size, channels=channels)
    return torch.stack(list(_on_all_cores(work, chunks, len(images)))).sum(0)


def _chunks(images: Sequence[StoredImage], bytes_each: int) -> list[Sequence[StoredImage]]:
    size = max(1, _CHUNK_BYTES // bytes_each)
    return [images[start : start + size] for start in range(0, len(images), size)]


def _read_headers(images: Sequence[StoredImage]) -> list[Header]:
    return [read_header(stored) for stored in images]


def _decode_chunk(images: Sequence[StoredImage], *, image_size: int, channels: int) -> tuple[Tensor, list[Header]]:
    decoded = [decode(stored, image_size=image_size, channels=channels) for stored in images]
    return torch.from_numpy(np.stack([pixels for pixels, _ in decoded])), [header for _, header in decoded]


def _chunk_histogram(images: Sequence[StoredImage], *, image_size: int, channels: int) -> Tensor:
    return channel_histogram(_decode_chunk(images, image_size=image_size, channels=channels)[0])


def _on_all_cores(
    work: Callable[[Sequence[StoredImage]], Any], chunks: Sequence[Sequence[StoredImage]], count: int
) -> Iterator[Any]:
    """Yield `work(chunk)` for each chunk in order; a DataError in a worker is raised here."""
    # Threads would wait for each other (decoding small images is mostly Python). Processes start safely by forking only
    # on Linux; starting them otherwise would run the caller's script again.
    workers = 0
    if sys.platform == "linux" and count >= _WORTH_WORKERS and not multiprocessing.current_process().daemon:
        workers = min(len(os.sched_getaffinity(0)), 16)
    loader = DataLoader(
        _Chunks(work, chunks),
        batch_size=None,
        num_workers=workers,
        collate_fn=_unchanged,
        multiprocessing_context="fork" if workers else None,
        generator=torch.Generator().manual_seed(0),  # else the global generator would be drawn from
    )
    for result in loader:
        if isinstance(result, DataError):
            raise result
        yield result


class _Chunks(Dataset):
    def __init__(self, work: Callable[[Sequence[StoredImage]], Any], chunks: Sequence[Sequence[StoredImage]]) -> None:
        self._work, self._chunks = work, chunks

    def __len__(self) -> int:
        return len(self._chunks)

    def __getitem__(self, index: int) -> Any:
        try:
            return self._work(self._chunks[index])
        except DataError as error:
            return error  # raised there, it would arrive inside a long traceback text


def _unchanged(result: Any) -> Any:
    return result
