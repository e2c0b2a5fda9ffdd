"""Random resized crops and colour jitter of batches, against torchvision's one image at a time."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms.v2 import functional

from archgrad.data import Augmentation, Data, ImageTransform
from archgrad.data.photographs import JITTER_DRAWS, PART_DRAWS, central_offsets, jittered, random_parts, resized
from archgrad.errors import DataError, OptionError

STRENGTHS = (0.4, 0.4, 0.4, 0.2)


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def part_of_one(draws: list[float], height: int, width: int) -> list[int]:
    """As `RandomResizedCrop.get_params` reads, with the numbers that it would draw."""
    low, high = math.log(3 / 4), math.log(4 / 3)
    for share, shape in zip(draws[2::2], draws[3::2], strict=True):
        area, ratio = height * width * (0.08 + 0.92 * share), math.exp(low + (high - low) * shape)
        h, w = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < w <= width and 0 < h <= height:
            return [int(draws[0] * (height - h + 1)), int(draws[1] * (width - w + 1)), h, w]
    h, w = height, width
    if width / height < 3 / 4:
        h = round(width / (3 / 4))
    elif width / height > 4 / 3:
        w = round(height * (4 / 3))
    return [(height - h) // 2, (width - w) // 2, h, w]


@settings(max_examples=60)
@given(height=st.integers(1, 60), width=st.integers(1, 60), seed=st.integers(0, 1000))
def test_parts_are_those_that_torchvision_chooses(height: int, width: int, seed: int) -> None:
    draws = uniform(8, PART_DRAWS, seed=seed)
    expected = [part_of_one(row, height, width) for row in draws.tolist()]
    assert random_parts(draws, height, width).tolist() == expected


def test_where_no_try_fits_the_largest_central_part_is_taken() -> None:
    # All of the area, 4/3 times as wide as high: wider than a square. The whole square is of an allowed ratio itself.
    draws = torch.full((1, PART_DRAWS), 1 - 2**-53, dtype=torch.float64)
    assert random_parts(draws, 36, 36).tolist() == [[0, 0, 36, 36]]
    assert random_parts(draws, 30, 90).tolist() == [[0, 25, 30, 40]]
    draws[:, -2:] = torch.tensor([0.0, 0.5])  # but for the last try: 8 % of the area, as wide as high
    assert random_parts(draws, 100, 100).tolist() == [[72, 72, 28, 28]]


@settings(max_examples=25)
@given(
    size=st.integers(1, 24),
    sides=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    channels=st.integers(1, 4),
    seed=st.integers(0, 1000),
)
def test_a_part_is_resized_as_torchvision_does(size: int, sides: tuple[int, int], channels: int, seed: int) -> None:
    images = uniform(4, channels, *sides, seed=seed)
    parts = random_parts(uniform(4, PART_DRAWS, seed=seed + 1), *sides)
    found = resized(images, parts, size)
    for image, part, result in zip(images, parts.tolist(), found, strict=True):
        expected = functional.resized_crop(image, *part, size=[size, size], antialias=True)
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)


def jittered_one(image: Tensor, draws: Tensor, strengths: tuple[float, ...]) -> Tensor:
    changes: list[Any] = [
        functional.adjust_brightness,
        functional.adjust_contrast,
        functional.adjust_saturation,
        functional.adjust_hue,
    ]
    for number in draws[4:].argsort().tolist():
        strength, draw = strengths[number], float(draws[number])
        low, high = (-strength, strength) if number == 3 else (max(0.0, 1 - strength), 1 + strength)
        if strength:
            image = changes[number](image, low + (high - low) * draw)
    return image


@pytest.mark.parametrize("strengths", [STRENGTHS, (0.0, 1.5, 0.0, 0.5), (0.9, 0.0, 2.0, 0.0)])
@pytest.mark.parametrize("channels", [1, 3])
def test_colours_change_as_torchvision_changes_them(strengths: tuple[float, ...], channels: int) -> None:
    images, draws = uniform(40, channels, 5, 6), uniform(40, JITTER_DRAWS, seed=1)
    images[:, :, 0] = 0.3  # grey, whose hue is none
    images[:, :, 1] = images[:, :, 1].round()  # black, white and pure colours
    before = images.clone()
    found = jittered(images, draws, strengths)
    assert torch.equal(images, before)
    assert len({tuple(row.argsort().tolist()) for row in draws[:, 4:]}) > 12  # of 24 orders
    for image, row, result in zip(images, draws, found, strict=True):
        # torchvision turns hues and greys in single precision
        torch.testing.assert_close(result, jittered_one(image, row, strengths), rtol=0, atol=2e-6)


PHOTOGRAPHS = Augmentation(resized_crop=8, flip=True, colour_jitter=STRENGTHS, cutout=3)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32])
def test_a_batch_is_cut_mirrored_coloured_normalised_and_blanked_in_this_order(dtype: torch.dtype) -> None:
    largest = {torch.uint8: 255, torch.uint16: 65535}.get(dtype, 1)
    images = (uniform(6, 3, 11, 13) * largest).to(dtype)
    transform = ImageTransform(augmentation=PHOTOGRAPHS, mean=(0.5,) * 3, std=(0.25,) * 3, dtype=torch.float64)
    draws = uniform(6, transform.draws_per_sample, seed=2)
    for image, row, result in zip(images.double() / largest, draws, transform(images, draws), strict=True):
        part = part_of_one([*row[:2].tolist(), *row[5:25].tolist()], 11, 13)
        out = functional.resized_crop(image, *part, size=[8, 8], antialias=True)
        out = out.flip(2) if row[2] >= 0.5 else out
        out = (jittered_one(out, row[25:], STRENGTHS) - 0.5) / 0.25
        top, left = (max(int(8 * u) - 1, 0) for u in row[3:5].tolist())
        out[:, top : int(8 * row[3]) + 2, left : int(8 * row[4]) + 2] = 0
        torch.testing.assert_close(result, out, rtol=0, atol=1e-5)


@pytest.mark.parametrize("sides", [(11, 13), (8, 8), (9, 20)])
def test_evaluation_takes_the_central_square(sides: tuple[int, int]) -> None:
    images = (uniform(2, 3, *sides) * 255).to(torch.uint8)
    data = Data.from_datasets([(image, label) for label, image in enumerate(images)], augmentation=PHOTOGRAPHS)
    assert data.image_size == 8
    transform = data.evaluation_transform()
    assert transform is not None
    torch.testing.assert_close(transform(images, None), functional.center_crop(images, [8, 8]) / 255)
    assert central_offsets(*sides, 8) == (round((sides[0] - 8) / 2), round((sides[1] - 8) / 2))


def test_what_was_drawn_before_is_drawn_as_before_and_no_option_moves_another() -> None:
    before = ImageTransform(augmentation=Augmentation(crop_padding=4, flip=True, cutout=16))
    assert before.draws_per_sample == ImageTransform().draws_per_sample == 5
    needed = {
        ImageTransform(augmentation=augmentation).draws_per_sample
        for augmentation in (PHOTOGRAPHS, Augmentation(resized_crop=8), Augmentation(colour_jitter=STRENGTHS))
    }
    assert needed == {5 + PART_DRAWS - 2 + JITTER_DRAWS}
    draws, images = uniform(6, *needed), uniform(6, 3, 11, 11)
    black = Augmentation(resized_crop=8, flip=True, colour_jitter=(0, 0, 0, 0))
    plain = Augmentation(resized_crop=8, flip=True)
    assert torch.equal(*(ImageTransform(augmentation=each)(images, draws) for each in (black, plain)))


def test_masks_stay_with_images_whose_colours_change() -> None:
    images, masks = uniform(5, 3, 6, 6), torch.arange(36).view(1, 6, 6).expand(5, 6, 6)
    shifted = Augmentation(crop_padding=2, flip=True)
    coloured = Augmentation(crop_padding=2, flip=True, colour_jitter=STRENGTHS)
    transform = ImageTransform(augmentation=coloured)
    draws = uniform(5, transform.draws_per_sample)
    _, moved = transform.with_masks(images, masks, draws)
    _, expected = ImageTransform(augmentation=shifted).with_masks(images, masks, draws[:, :5])
    assert torch.equal(moved, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resized_crop": -1}, "resized_crop must be at least 0"),
        ({"resized_crop": 8, "crop_padding": 2}, "one crop"),
        ({"colour_jitter": (0.4, 0.4, 0.4)}, "colour_jitter takes"),
        ({"colour_jitter": (0.4, 0.4, 0.4, 0.6)}, "at most 0.5"),
        ({"colour_jitter": (-0.1, 0.4, 0.4, 0.2)}, "at least 0"),
        ({"colour_jitter": (math.inf, 0.4, 0.4, 0.2)}, "at least 0"),
    ],
)
def test_augmentations_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Augmentation(**options)


def test_data_that_cannot_be_augmented_so_is_refused_before_it_is_learnt_from() -> None:
    masks = Data.from_datasets([(uniform(3, 9, 9), torch.arange(81).view(9, 9) % 2)] * 2, augmentation=PHOTOGRAPHS)
    with pytest.raises(DataError, match="without their masks"):
        masks.training_transform()
    bands = Data.from_datasets(
        [(uniform(4, 9, 9), label) for label in (0, 1)], augmentation=Augmentation(colour_jitter=STRENGTHS)
    )
    with pytest.raises(DataError, match="not for 4 channels"):
        bands.training_transform()
    with pytest.raises(DataError, match=r"central 8x8 pixels.*7x9"):
        ImageTransform(augmentation=PHOTOGRAPHS)(uniform(1, 3, 7, 9), None)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_what_the_cpu_gives() -> None:
    transform = ImageTransform(augmentation=PHOTOGRAPHS, mean=(0.5,) * 3, std=(0.2,) * 3)
    images, draws = (uniform(16, 3, 40, 36) * 255).to(torch.uint8), uniform(16, transform.draws_per_sample)
    torch.testing.assert_close(transform(images.cuda(), draws).cpu(), transform(images, draws), rtol=0, atol=1e-4)
