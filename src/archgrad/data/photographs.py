"""Random resized crops and colour jitter of whole batches, by random numbers that are given.

Both are those of torchvision's RandomResizedCrop and ColorJitter, image by image, for given parts and factors.
"""

import math

import torch
from torch import Tensor

__all__ = ["JITTER_DRAWS", "PART_DRAWS", "central_offsets", "jittered", "random_parts", "resized"]

_TRIES = 10
PART_DRAWS = 2 + 2 * _TRIES
"""Uniform numbers that the choice of one part takes: its place, and area and shape in each try."""
JITTER_DRAWS = 8
"""Uniform numbers that the jitter of one image takes: four factors, and four whose order is that of the changes."""

_AREA = (0.08, 1.0)
_RATIO = (3 / 4, 4 / 3)
_LUMA = (0.2989, 0.587, 0.114)


def random_parts(draws: Tensor, height: int, width: int) -> Tensor:
    """Choose a random part of each image of a batch: 8 % to all of its area, 3/4 to 4/3 times as wide as high.

    The area is uniform, and so is the logarithm of the ratio. The first of ten tries that lies within the image is
    taken, anywhere there; if none does, the largest central part of an allowed ratio.

    Args:
        draws: (B, PART_DRAWS) float64, uniform in [0, 1).
        height: Of the images.
        width: Of the images.

    Returns:
        (B, 4) int64: top, left, height, width.

    Source: Szegedy et al. 2015, section 6, as in torchvision's RandomResizedCrop.
    """
    place, tries = draws[:, :2], draws[:, 2:].reshape(len(draws), _TRIES, 2)
    area = height * width * (_AREA[0] + (_AREA[1] - _AREA[0]) * tries[..., 0])
    lowest, highest = map(math.log, _RATIO)
    ratio = torch.exp(lowest + (highest - lowest) * tries[..., 1])
    sides = torch.stack([area / ratio, area * ratio], 2).sqrt().round()  # (B, tries, 2): heights and widths
    whole = sides.new_tensor([height, width])
    fits = ((sides >= 1) & (sides <= whole)).all(2)
    any_fits = fits.any(1, keepdim=True)
    first = sides[torch.arange(len(sides)), fits.int().argmax(1)]
    chosen = torch.where(any_fits, first, sides.new_tensor(_largest_part(height, width)))
    room = whole - chosen
    offsets = torch.where(any_fits, place * (room + 1), room / 2).floor()
    return torch.cat([offsets, chosen], 1).long()


def _largest_part(height: int, width: int) -> tuple[int, int]:
    lowest, highest = _RATIO
    if width < lowest * height:
        return round(width / lowest), width
    return height, round(highest * height) if width > highest * height else width


def central_offsets(height: int, width: int, size: int) -> tuple[int, int]:
    """Return top and left of the central square of `size` pixels, as torchvision's CenterCrop has them."""
    return round((height - size) / 2), round((width - size) / 2)


def resized(images: Tensor, parts: Tensor, size: int) -> Tensor:
    """Bring a part of each image to a square: bilinear, antialiased, without what lies beside the part.

    Args:
        images: (B, C, H, W), floating point.
        parts: (B, 4) top, left, height, width.
        size: Side of the square in pixels.

    Returns:
        (B, C, size, size).
    """
    parts = parts.to(images.device, non_blocking=True)
    rows = _weights(parts[:, 0], parts[:, 2], images.shape[2], size, images.dtype)
    columns = _weights(parts[:, 1], parts[:, 3], images.shape[3], size, images.dtype)
    return rows[:, None] @ images @ columns[:, None].mT


def _weights(first: Tensor, extent: Tensor, length: int, size: int, dtype: torch.dtype) -> Tensor:
    """Return (B, size, length), what each pixel of a line adds to each pixel of the result: a triangle around it."""
    pixels = torch.arange(length, device=first.device) - first[:, None] + 0.5  # centres, seen from the part's border
    inside = ((pixels > 0) & (pixels < extent[:, None]))[:, None]
    scale = extent.to(dtype)[:, None, None] / size
    places = (torch.arange(size, device=first.device, dtype=dtype)[:, None] + 0.5) * scale
    distance = (pixels[:, None].to(dtype) - places).abs() / scale.clamp(min=1)
    weights = (1 - distance).clamp(min=0) * inside
    return weights / weights.sum(2, keepdim=True)


def jittered(images: Tensor, draws: Tensor, strengths: tuple[float, ...]) -> Tensor:
    """Change brightness, contrast, saturation and hue of each image by random factors, in random order.

    Args:
        images: (B, 3, H, W), or grey (B, 1, H, W), which has neither saturation nor hue; floating point in [0, 1].
        draws: (B, JITTER_DRAWS) float64 on the CPU, uniform in [0, 1).
        strengths: Greatest change of each: factors from 1 - s, at least 0, to 1 + s, and for the hue a turn of the
            circle of colours from -s to s.

    Returns:
        (B, C, H, W) in [0, 1].

    Source: torchvision's ColorJitter.
    """
    strength = draws.new_tensor(strengths)
    centre = draws.new_tensor([1.0, 1.0, 1.0, 0.0])
    lowest = torch.where(centre > 0, (centre - strength).clamp(min=0), -strength)
    factors = lowest + (centre + strength - lowest) * draws[:, :4]
    order = draws[:, 4:].argsort(1)
    images = images.clone()
    changes = (_brightened, _contrasted, _saturated, _turned) if images.shape[1] == 3 else (_brightened, _contrasted)
    for place in range(order.shape[1]):
        for number, change in enumerate(changes):
            which = (order[:, place] == number).nonzero()[:, 0]
            if strengths[number] and len(which):
                of_those = factors[which, number].view(-1, 1, 1, 1).to(images, non_blocking=True)
                which = which.to(images.device, non_blocking=True)
                images[which] = change(images[which], of_those)
    return images


def _brightened(images: Tensor, factors: Tensor) -> Tensor:
    return (factors * images).clamp(0, 1)


def _contrasted(images: Tensor, factors: Tensor) -> Tensor:
    return _blended(images, _grey(images).mean((1, 2, 3), keepdim=True), factors)


def _saturated(images: Tensor, factors: Tensor) -> Tensor:
    return _blended(images, _grey(images), factors)


def _blended(images: Tensor, others: Tensor, factors: Tensor) -> Tensor:
    return (factors * images + (1 - factors) * others).clamp(0, 1)


def _grey(images: Tensor) -> Tensor:
    if images.shape[1] == 1:
        return images
    return sum(share * images[:, place : place + 1] for place, share in enumerate(_LUMA))  # type: ignore[return-value]


def _turned(images: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue, with lightest and darkest channel of each pixel as they are."""
    red, green, blue = images.unbind(1)
    lightest = images.amax(1)
    chroma = lightest - images.amin(1)
    divisor = torch.where(chroma == 0, 1, chroma)
    sixths = torch.where(  # of the circle of colours, from red by green and blue
        lightest == red,
        (green - blue) / divisor,
        torch.where(lightest == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    turned = sixths + 6 * turns[:, :, 0]
    channels = []
    for offset in (5, 3, 1):
        step = (offset + turned) % 6
        channels.append(lightest - chroma * torch.minimum(step, 4 - step).clamp(0, 1))
    return torch.stack(channels, 1).clamp(0, 1)
