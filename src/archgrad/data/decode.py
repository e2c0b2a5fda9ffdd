"""Image files to pixels: checked before memory is taken, with an error that names the file."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

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
_MOST_16_BITS = 65535
_DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")
"""Pillow's names of grey images of 16 bits, and of whole numbers that may be such."""

Fit = Literal["crop", "squash", "pad"]
"""How an image of another shape is brought to that of the others: its central part is cut out, it is squeezed, or black
borders are added."""
FITS: tuple[Fit, ...] = get_args(Fit)


class ImageFiles(Dataset):
    """Images decoded when asked for, as tensors of one size and type.

    Args:
        images: (N) where they are.
        targets: (N,) int64.
        image_size: As for `decode`, as all that follow.
        channels: As there.
        bits: As there.
        fit: As there.
    """

    def __init__(
        self,
        images: Sequence[StoredImage],
        targets: Tensor,
        *,
        image_size: int | tuple[int, int],
        channels: int,
        bits: int = 8,
        fit: Fit = "crop",
    ) -> None:
        self.images, self.targets = list(images), targets
        self._form: dict[str, Any] = {"image_size": image_size, "channels": channels, "bits": bits, "fit": fit}

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        pixels, _ = decode(self.images[index], **self._form)
        return torch.from_numpy(pixels), int(self.targets[index])


class Header(NamedTuple):
    """What is known of an image before it is decoded."""

    height: int
    """Of the upright image, in pixels."""

    width: int
    """Of the upright image, in pixels."""

    colour: bool
    """Whether it has more than shades of grey."""

    bits: int
    """Of a channel: 8, or 16."""

    @property
    def side(self) -> int:
        """The shorter side in pixels."""
        return min(self.height, self.width)

    def cut(self, height: int, width: int) -> float:
        """Return the share of the image, 0 to below 1, that its central part of the shape height x width leaves out."""
        scale = min(self.height / height, self.width / width)
        return 1 - scale * scale * height * width / (self.height * self.width)


def read_header(stored: StoredImage) -> Header:
    """Read an image's header without decoding it.

    Raises:
        DataError: It is no image, or one that is refused.
    """
    with _opened(stored) as image:
        return _header_of(image)


def decode(
    stored: StoredImage,
    *,
    image_size: int | tuple[int, int],
    channels: int,
    bits: int | None = 8,
    fit: Fit = "crop",
) -> tuple[np.ndarray, Header]:
    """Decode an image, upright; one of another size is fitted and resized (bilinear, antialiased).

    Args:
        stored: Where it is.
        image_size: Height and width of the result in pixels, one number or two.
        channels: 1 for grey, 3 for colour.
        bits: Of a channel of the result, 8 or 16; None for those of the image.
        fit: How an image of another shape is fitted.

    Returns:
        (channels, height, width) uint8 or uint16, and the header.

    Raises:
        DataError: It is no image, corrupt, or refused.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    with _opened(stored) as image:
        header = _header_of(image)
        image = _upright(image)
        if header.bits == 16:
            pixels = _deep_pixels(image, size, fit, stored)
            pixels = np.repeat(pixels[None], channels, axis=0)
        else:
            if "transparency" in image.info:
                image = image.convert("RGBA")
            mode = "RGB" if channels == 3 else "L"
            if image.mode != mode:
                image = image.convert(mode)
            pixels = np.asarray(_fitted(image, size, fit))
            pixels = pixels.transpose(2, 0, 1) if channels == 3 else pixels[None]
    return with_bits(pixels, bits or header.bits).copy(), header


def with_bits(pixels: np.ndarray, bits: int) -> np.ndarray:
    """Return pixels with 8 or 16 bits a channel; 0 stays 0 and the largest value the largest."""
    if bits == 8 * pixels.itemsize:
        return pixels
    return pixels.astype(np.uint16) * 257 if bits == 16 else ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _fitted(image: Image.Image, size: tuple[int, int], fit: Fit) -> Image.Image:
    """Return the image with a height and width, whatever its shape is."""
    height, width = size
    if image.size == (width, height):
        return image
    if fit == "squash":
        return image.resize((width, height), Image.Resampling.BILINEAR)
    scales = (image.width / width, image.height / height)
    if fit == "pad":
        scale = max(scales)
        inner = (max(1, round(image.width / scale)), max(1, round(image.height / scale)))
        resized = image.resize(inner, Image.Resampling.BILINEAR)
        padded = Image.new(image.mode, (width, height))
        padded.paste(resized, ((width - inner[0]) // 2, (height - inner[1]) // 2))
        return padded
    scale = min(scales)
    part = (max(1, round(width * scale)), max(1, round(height * scale)))
    left, top = (image.width - part[0]) // 2, (image.height - part[1]) // 2
    # Cut first: with resize(box=...), pixels beside the box would shine through.
    return image.crop((left, top, left + part[0], top + part[1])).resize((width, height), Image.Resampling.BILINEAR)


def _deep_pixels(image: Image.Image, size: tuple[int, int], fit: Fit, stored: StoredImage) -> np.ndarray:
    """Return (height, width) uint16 of a grey image of whole numbers."""
    values = np.asarray(image).astype(np.float32)
    if values.min() < 0 or values.max() > _MOST_16_BITS:
        raise DataError(
            f"{stored.name} holds the values {values.min():g} to {values.max():g}, but 16 bits reach from 0 to "
            f"{_MOST_16_BITS}. Convert it to 16 bits or 8."
        )
    # Of floating point, as Pillow resizes 16 bits only in its newer versions.
    fitted = _fitted(Image.fromarray(values), size, fit)
    return np.asarray(fitted).round().clip(0, _MOST_16_BITS).astype(np.uint16)


def _header_of(image: Image.Image) -> Header:
    sideways = _orientation(image) >= 5
    width, height = image.size[::-1] if sideways else image.size
    deep = image.mode in _DEEP_MODES
    return Header(height, width, image.mode not in _GREY_MODES and not deep, 16 if deep else 8)


def _orientation(image: Image.Image) -> int:
    """Return how its camera was held, which EXIF tells as a number from 1, upright, to 8."""
    try:
        number = image.getexif().get(_ORIENTATION, 1)
        return number if number in _TURNS else 1
    except Exception:  # damaged EXIF, which tells nothing
        return 1


def _upright(image: Image.Image) -> Image.Image:
    turn = _TURNS.get(_orientation(image))
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
                if image.mode.startswith("F"):
                    raise DataError(
                        f"{stored.name} holds floating-point values, which no range is known of. Convert it to 16 bits "
                        f"or 8, or read it in a function of your own."
                    )
                yield image
    except DataError:
        raise
    except Exception as error:  # a decoder fed with garbage raises nearly anything: OSError, SyntaxError, ...
        raise DataError(f"{stored.name} cannot be read as an image: {error}. Restore it, or leave it out.") from error
