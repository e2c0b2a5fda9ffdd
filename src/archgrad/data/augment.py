"""Augmentation and normalisation of whole batches of images, on any device."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from archgrad.data.photographs import JITTER_DRAWS, PART_DRAWS, central_offsets, jittered, random_parts, resized
from archgrad.errors import DataError, OptionError

LARGEST_PIXEL = {torch.uint8: 255.0, torch.uint16: 65535.0}
"""Type of stored images: the value that stands for 1."""


_DRAWS = 5  # crop y and x, flip, cutout y and x
_PARTS = slice(_DRAWS, _DRAWS + PART_DRAWS - 2)  # of which the place is the crop's
_JITTER = slice(_PARTS.stop, _PARTS.stop + JITTER_DRAWS)
_ALL_DRAWS = _JITTER.stop


class BatchTransform(Protocol):
    """What an `InfiniteLoader` does to the inputs of each batch; any callable with these two members serves."""

    @property
    def draws_per_sample(self) -> int:
        """Number of uniform random numbers that one sample needs; 0 for a transform without randomness."""
        ...

    def __call__(self, inputs: Tensor, draws: Tensor | None) -> Tensor:
        """Transform a batch.

        Args:
            inputs: (B, ...), on any device.
            draws: (B, draws_per_sample) float64 on the CPU, uniform in [0, 1); None where there is to be no randomness.

        Returns:
            (B, ...), on the device of the inputs.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What may be done at random to a training image of a data set."""

    crop_padding: int = 0
    """Zero pixels added on each side before a random crop of the old size; 0 switches the crop off."""

    flip: bool = False
    """Mirror left to right with probability one half."""

    cutout: int = 0
    """Side, in pixels, of the square that is set to zero after normalisation; 0 switches it off."""

    resized_crop: int = 0
    """Side, in pixels, that a random part of the image is brought to, 8 % to all of its area and 3/4 to 4/3 times as
    wide as high; of a test image it is the central square of that side. The data's images are larger. 0 switches the
    crop off."""

    colour_jitter: tuple[float, ...] = ()
    """Greatest change of brightness, contrast and saturation, as shares, and of the hue, in turns of the circle of
    colours, at most 1/2; each is drawn for each image, and so is their order. Empty switches it off."""

    def __post_init__(self) -> None:
        for name in ("crop_padding", "cutout", "resized_crop"):
            if getattr(self, name) < 0:
                raise OptionError(f"{name} must be at least 0, but got {getattr(self, name)}. Give 0 to switch it off.")
        if self.crop_padding and self.resized_crop:
            raise OptionError(
                f"There is one crop, but got crop_padding={self.crop_padding} and resized_crop={self.resized_crop}. "
                f"Leave one of them out."
            )
        jitter = tuple(self.colour_jitter)
        if jitter and not (len(jitter) == 4 and all(0 <= change < math.inf for change in jitter) and jitter[3] <= 0.5):
            raise OptionError(
                f"colour_jitter takes the greatest change of brightness, contrast, saturation and hue, numbers of at "
                f"least 0 and the last at most 0.5, but got {jitter}. Give for example (0.4, 0.4, 0.4, 0.2)."
            )
        object.__setattr__(self, "colour_jitter", jitter)  # of a frozen dataclass

    def check(self, channels: int, targets: Tensor) -> None:
        """Refuse data that cannot be augmented so.

        Args:
            channels: Of the images; 0 where inputs are none.
            targets: (N, ...), of the samples.

        Raises:
            DataError: They are not of colours, or their targets are masks, which would have to move with them.
        """
        if self.colour_jitter and channels not in (1, 3):
            raise DataError(f"colour_jitter is for grey or coloured images, not for {channels} channels. Leave it out.")
        if self.resized_crop and targets.ndim > 2:
            raise DataError("resized_crop moves images without their masks. Give crop_padding, or another task.")


@dataclass(frozen=True, kw_only=True)
class ImageTransform:
    """Random crop, flip, colours, normalisation and cutout of a batch, in the order of the DARTS authors.

    Padding is black, so it comes before normalisation; the cutout square is 0, the mean colour, and comes after it.

    Source: Liu et al. 2019; DeVries and Taylor 2017 (cutout).
    """

    augmentation: Augmentation = Augmentation()
    """What is done at random when there are draws."""

    mean: tuple[float, ...] = ()
    """Mean of each channel, for pixels in [0, 1]; empty for no normalisation."""

    std: tuple[float, ...] = ()
    """Standard deviation of each channel, as for `mean`."""

    dtype: torch.dtype = torch.float32
    """Of the result."""

    channels_last: bool = False
    """Lay the result out in channels_last memory format."""

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std):
            raise OptionError(
                f"Mean and std need one value a channel each, but there are {len(self.mean)} and {len(self.std)}. "
                f"Give both, or neither."
            )
        if not self.dtype.is_floating_point:
            raise OptionError(f"Images become floating point, but dtype={self.dtype}. Give for example torch.float32.")

    @property
    def draws_per_sample(self) -> int:
        """Uniform random numbers of a sample: always all of its kind of images, so one option never moves another."""
        return _DRAWS if not self.augmentation.resized_crop and not self.augmentation.colour_jitter else _ALL_DRAWS

    def __call__(self, inputs: Tensor, draws: Tensor | None) -> Tensor:
        """Transform a batch of images.

        Args:
            inputs: (B, C, H, W), uint8 in 0..255, uint16 in 0..65535, or any other type in [0, 1].
            draws: (B, draws_per_sample) float64 on the CPU, uniform in [0, 1); None for evaluation: nothing random.

        Returns:
            (B, C, H, W) of `dtype` on the device of the inputs, which are left as they are; of the height and width
            `resized_crop` where there is one.

        Raises:
            DataError: The inputs are not such a batch.
        """
        return self._transformed(inputs, draws, nearest=False)

    def with_masks(self, inputs: Tensor, masks: Tensor, draws: Tensor | None) -> tuple[Tensor, Tensor]:
        """Transform a batch of images whose targets are masks: crop and flip move both together.

        What a crop brings in at the border is the nearest pixel of image and mask, so that each pixel has its target
        and no loss or metric has to leave one out. Cutout blanks the image alone.

        Args:
            inputs: (B, C, H, W), as in a call.
            masks: (B, H, W) or (B, K, H, W), of any type.
            draws: As in a call.

        Returns:
            Images as a call returns them, and masks of the same type.

        Raises:
            DataError: The inputs are no such batch.
        """
        outputs = self._transformed(inputs, draws, nearest=True)
        if draws is None:
            return outputs, masks
        offsets = self._offsets(draws, *inputs.shape[2:]).to(masks.device, non_blocking=True)
        planes = masks if masks.ndim == 4 else masks[:, None]
        return outputs, self._crop_and_flip(planes, offsets, nearest=True).view(masks.shape)

    def _transformed(self, inputs: Tensor, draws: Tensor | None, *, nearest: bool) -> Tensor:
        if inputs.ndim != 4 or (self.mean and inputs.shape[1] != len(self.mean)):
            raise DataError(
                f"Images need the shape (B, {len(self.mean) or 'C'}, H, W), but a batch has {tuple(inputs.shape)}. "
                f"Give images, or data without augmentation and normalisation."
            )
        size, jitter = self.augmentation.resized_crop, self.augmentation.colour_jitter
        height, width = (size, size) if size else inputs.shape[2:]
        images = inputs
        if draws is not None:
            if size or jitter:
                images = self._in_unit_range(images)
            if size:
                parts = random_parts(torch.cat([draws[:, :2], draws[:, _PARTS]], 1), *inputs.shape[2:])
                images = resized(images, parts, size)
            offsets = self._offsets(draws, height, width).to(inputs.device, non_blocking=True)
            images = self._crop_and_flip(images, offsets, nearest=nearest)
            if jitter:
                images = jittered(images, draws[:, _JITTER], jitter)
        elif size:
            images = _central_part(images, size)
        outputs = self._normalise(images)
        if draws is not None and self.augmentation.cutout:
            outputs.masked_fill_(cutout_mask(offsets[:, 3], offsets[:, 4], self.augmentation.cutout, height, width), 0)
        # Last, as working on few channels side by side takes twice the time.
        return outputs.contiguous(memory_format=torch.channels_last) if self.channels_last else outputs

    def _offsets(self, draws: Tensor, height: int, width: int) -> Tensor:
        """Turn uniform draws into (B, 5) whole numbers: crop y, crop x, flip (0 or 1), cutout centre y, centre x."""
        places = 2 * self.augmentation.crop_padding + 1
        return (draws[:, :_DRAWS] * draws.new_tensor([places, places, 2, height, width])).long()

    def _crop_and_flip(self, images: Tensor, offsets: Tensor, *, nearest: bool) -> Tensor:
        padding, flip = self.augmentation.crop_padding, self.augmentation.flip
        if not padding and not flip:
            return images
        batch, channels, height, width = images.shape
        rows = torch.arange(height, device=images.device).expand(batch, height)
        columns = torch.arange(width, device=images.device).expand(batch, width)
        if flip:
            columns = torch.where(offsets[:, 2:3] == 1, width - 1 - columns, columns)
        if padding:
            rows, columns = rows + offsets[:, 0:1], columns + offsets[:, 1:2]
            if nearest:
                rows, columns = (rows - padding).clamp(0, height - 1), (columns - padding).clamp(0, width - 1)
            else:
                images = F.pad(images, (padding,) * 4)
        # One gather crops and flips the whole batch: pixel (y, x) of the result is padded pixel (rows[y], columns[x]).
        pixels = (rows[:, :, None] * images.shape[3] + columns[:, None, :]).view(batch, 1, height * width)
        return images.flatten(2).gather(2, pixels.expand(-1, channels, -1)).view(batch, channels, height, width)

    @property
    def _exact(self) -> torch.dtype:
        return torch.float64 if self.dtype == torch.float64 else torch.float32  # half precision only at the end

    def _in_unit_range(self, images: Tensor) -> Tensor:
        return images.to(self._exact) / LARGEST_PIXEL.get(images.dtype, 1.0)

    def _normalise(self, images: Tensor) -> Tensor:
        exact = self._exact
        outputs = images.to(exact, copy=True, memory_format=torch.contiguous_format)
        full_scale = LARGEST_PIXEL.get(images.dtype, 1.0)
        if self.mean:
            shift, divisor = _per_channel(self.mean, self.std, full_scale, exact, images.device)
            outputs.sub_(shift).div_(divisor)
        elif full_scale != 1:
            outputs.div_(full_scale)
        return outputs.to(self.dtype)


def _central_part(images: Tensor, size: int) -> Tensor:
    height, width = images.shape[2:]
    if min(height, width) < size:
        raise DataError(
            f"The central {size}x{size} pixels of test images are taken, as resized_crop={size} says, but they have "
            f"{height}x{width}. Give larger images, or another resized_crop."
        )
    top, left = central_offsets(height, width, size)
    return images[:, :, top : top + size, left : left + size]


def are_masks(targets: object, inputs: object) -> bool:
    """Whether targets are (B, H, W) or (B, K, H, W), a value for each pixel of images (B, C, H, W)."""
    return (
        isinstance(targets, Tensor)
        and isinstance(inputs, Tensor)
        and inputs.ndim == 4
        and targets.ndim in (3, 4)
        and targets.shape[-2:] == inputs.shape[-2:]
    )


def cutout_mask(centre_y: Tensor, centre_x: Tensor, length: int, height: int, width: int) -> Tensor:
    """Mark the square of side `length` around each centre, clipped at the borders of the image.

    Args:
        centre_y: (B,) rows, in 0..height-1; the square starts `length // 2` above.
        centre_x: (B,) columns, in 0..width-1.
        length: Side of the square in pixels.
        height: Of the image.
        width: Of the image.

    Returns:
        (B, 1, height, width) bool, True inside the square.

    Source: DeVries and Taylor 2017.
    """

    def inside(centre: Tensor, size: int) -> Tensor:
        distance = torch.arange(size, device=centre.device) - (centre[:, None] - length // 2)
        return (distance >= 0) & (distance < length)

    return (inside(centre_y, height)[:, :, None] & inside(centre_x, width)[:, None, :])[:, None]


@lru_cache(maxsize=32)
def _per_channel(
    mean: tuple[float, ...], std: tuple[float, ...], full_scale: float, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    # Kept, because making a tensor from a list waits for the device.
    shape = (1, -1, 1, 1)
    shift = torch.tensor(mean, dtype=torch.float64).mul(full_scale).to(dtype).view(shape)
    divisor = torch.tensor(std, dtype=torch.float64).mul(full_scale).to(dtype).view(shape)
    return shift.to(device), divisor.to(device)


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over a set of images.

    Args:
        images: (N, C, H, W) uint8 or uint16.

    Returns:
        Two tuples of C values for pixels in [0, 1]: exact up to float64 rounding, from whole-number histograms. A
        channel of one single value gets the standard deviation 1, so that normalisation is defined.
    """
    return statistics_of_histogram(channel_histogram(images))


def channel_histogram(images: Tensor) -> Tensor:
    """Count how often each pixel value occurs in each channel.

    Args:
        images: (N, C, H, W) uint8 or uint16.

    Returns:
        (C, 256) int64, or (C, 65536) of uint16.
    """
    values = int(LARGEST_PIXEL[images.dtype]) + 1
    counts = torch.zeros(images.shape[1], values, dtype=torch.int64)
    for chunk in images.split(max(1, 2**22 // images[0].numel())):  # bincount widens to int64: bound the memory
        for channel in range(images.shape[1]):
            pixels = chunk[:, channel].flatten()
            # bincount does not take uint16
            counts[channel] += torch.bincount(pixels.int() if values > 256 else pixels, minlength=values)
    return counts


def statistics_of_histogram(counts: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of pixels from how often each value occurs.

    Args:
        counts: (C, 256) or (C, 65536) int64.

    Returns:
        Two tuples of C values, as `channel_statistics`.
    """
    largest = counts.shape[1] - 1
    values = torch.arange(largest + 1, dtype=torch.float64) / largest
    share = counts.double() / counts.sum(1, keepdim=True)
    mean = share @ values
    variance = (share * (values - mean[:, None]) ** 2).sum(1)
    std = torch.where(variance > 1e-12, variance.sqrt(), 1.0)
    return tuple(mean.tolist()), tuple(std.tolist())
