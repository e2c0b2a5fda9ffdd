"""Laws of crop, flip, normalisation and cutout, against plain loops over single images."""

import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from archgrad.data import Augmentation, ImageTransform, InfiniteLoader, TensorSamples
from archgrad.data.augment import channel_statistics, cutout_mask
from archgrad.errors import DataError, OptionError


def draws_for(count: int, seed: int) -> Tensor:
    return torch.rand(count, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def images_of(count: int, channels: int, height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, height, width), generator=generator, dtype=torch.uint8)


def one_by_one(images: Tensor, draws: Tensor, transform: ImageTransform) -> Tensor:
    """The same, image by image, as the authors' pipeline reads: pad, crop, flip, normalise, cutout."""
    padding, length = transform.augmentation.crop_padding, transform.augmentation.cutout
    height, width = images.shape[2:]
    results = []
    for image, (u_top, u_left, u_flip, u_y, u_x) in zip(images, draws.tolist(), strict=True):
        padded = torch.zeros(image.shape[0], height + 2 * padding, width + 2 * padding, dtype=torch.float64)
        padded[:, padding : padding + height, padding : padding + width] = image
        top, left = int(u_top * (2 * padding + 1)), int(u_left * (2 * padding + 1))
        out = padded[:, top : top + height, left : left + width]
        if transform.augmentation.flip and u_flip >= 0.5:
            out = out.flip(2)
        mean, std = (torch.tensor(of, dtype=torch.float64).view(-1, 1, 1) for of in (transform.mean, transform.std))
        out = (out / 255 - mean) / std
        if length:
            first_y, first_x = int(u_y * height) - length // 2, int(u_x * width) - length // 2
            for y in range(max(first_y, 0), min(first_y + length, height)):
                for x in range(max(first_x, 0), min(first_x + length, width)):
                    out[:, y, x] = 0
        results.append(out)
    return torch.stack(results)


@settings(max_examples=40)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(2, 9), st.integers(2, 9)),
    padding=st.integers(0, 4),
    flip=st.booleans(),
    cutout=st.integers(0, 10),
    seed=st.integers(0, 1000),
    channels_last=st.booleans(),
)
def test_batched_augmentation_equals_one_image_at_a_time(shape, padding, flip, cutout, seed, channels_last):
    mean, std = (0.5, 0.25, 0.125)[: shape[1]], (0.2, 0.3, 0.4)[: shape[1]]
    augmentation = Augmentation(crop_padding=padding, flip=flip, cutout=cutout)
    transform = ImageTransform(
        augmentation=augmentation, mean=mean, std=std, dtype=torch.float64, channels_last=channels_last
    )
    images, draws = images_of(*shape, seed=seed), draws_for(shape[0], seed)
    before = images.clone()
    result = transform(images, draws)
    torch.testing.assert_close(result, one_by_one(images, draws, transform), rtol=1e-12, atol=1e-12)
    assert torch.equal(images, before)
    if channels_last:
        assert result.is_contiguous(memory_format=torch.channels_last)


def test_every_crop_offset_and_both_flips_come_up_equally_often():
    # One bright pixel in the middle of a 9x9 image lands at offset (4 - dy, 4 - dx), dy and dx uniform over -4..4.
    images = torch.zeros(40_000, 1, 9, 9, dtype=torch.uint8)
    images[:, :, 4, 4] = 255
    crop = ImageTransform(augmentation=Augmentation(crop_padding=4))
    share = crop(images, draws_for(40_000, 3)).mean(0)[0]
    assert float((share - 1 / 81).abs().max()) < 5 * (1 / 81 / 40_000) ** 0.5
    images = torch.tensor([[[[0, 255]]]], dtype=torch.uint8).expand(40_000, -1, -1, -1)
    flip = ImageTransform(augmentation=Augmentation(flip=True))
    assert float(flip(images, draws_for(40_000, 4))[..., 0].mean()) == pytest.approx(0.5, abs=0.0125)


def test_padding_is_black_before_and_cutout_is_the_mean_colour_after_normalisation():
    white = torch.full((1, 1, 4, 4), 255, dtype=torch.uint8)
    first_corner = torch.tensor([[0.0, 0.0, 0.0, 0.99, 0.99]], dtype=torch.float64)
    transform = ImageTransform(augmentation=Augmentation(crop_padding=1, cutout=2), mean=(0.5,), std=(0.25,))
    result = transform(white, first_corner)[0, 0]
    assert result[0, 0] == -2  # (0 - 0.5) / 0.25
    assert result[1, 1] == 2  # (1 - 0.5) / 0.25
    assert result[3, 3] == 0  # rows and columns 2..3, around the centre (3, 3)


@settings(max_examples=60)
@given(size=st.tuples(st.integers(1, 12), st.integers(1, 12)), length=st.integers(1, 30), data=st.data())
def test_cutout_area_is_that_of_the_clipped_square(size, length, data):
    height, width = size
    y, x = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    mask = cutout_mask(torch.tensor([y]), torch.tensor([x]), length, height, width)

    def overlap(centre: int, extent: int) -> int:
        first = centre - length // 2
        return max(0, min(first + length, extent) - max(first, 0))

    assert mask.shape == (1, 1, height, width)
    assert int(mask.sum()) == overlap(y, height) * overlap(x, width)
    assert int(mask.sum()) <= length**2
    if length > 1:
        assert mask[0, 0, y, x]


def test_evaluation_has_nothing_random_and_only_normalises():
    images = images_of(3, 3, 5, 5)
    transform = ImageTransform(
        augmentation=Augmentation(crop_padding=2, flip=True, cutout=4), mean=(0.5,) * 3, std=(2.0,) * 3
    )
    torch.testing.assert_close(transform(images, None), (images / 255 - 0.5) / 2)


def test_cutout_leaves_crop_and_flip_of_the_same_draws_alone():
    images, draws = images_of(16, 1, 8, 8), draws_for(16, 0)
    plain = ImageTransform(augmentation=Augmentation(crop_padding=2, flip=True))(images, draws)
    cut = ImageTransform(augmentation=Augmentation(crop_padding=2, flip=True, cutout=3))(images, draws)
    assert torch.equal(torch.where(cut == 0, 0, plain), cut)
    assert bool((cut != plain).any())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_is_the_single_precision_result_rounded_once(dtype):
    images = images_of(2, 3, 6, 6)
    options = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.2, 0.2)}
    result = ImageTransform(**options, dtype=dtype)(images, None)
    assert result.dtype == dtype
    assert torch.equal(result, ImageTransform(**options)(images, None).to(dtype))


def test_floating_point_images_in_unit_range_give_what_bytes_give():
    images = images_of(2, 1, 4, 4)
    transform = ImageTransform(mean=(0.3,), std=(0.2,), dtype=torch.float64)
    torch.testing.assert_close(transform(images.double() / 255, None), transform(images, None))


def test_statistics_are_those_of_the_pixels():
    images = images_of(50, 3, 7, 5)
    mean, std = channel_statistics(images)
    exact = images.double() / 255
    torch.testing.assert_close(torch.tensor(mean, dtype=torch.float64), exact.mean((0, 2, 3)))
    torch.testing.assert_close(torch.tensor(std, dtype=torch.float64), exact.std((0, 2, 3), correction=0))
    assert channel_statistics(torch.zeros(2, 1, 3, 3, dtype=torch.uint8)) == ((0.0,), (1.0,))


def test_wrong_shapes_and_options_are_refused_with_the_values():
    with pytest.raises(DataError, match=r"\(B, 3, H, W\).*\(2, 1, 4, 4\)"):
        ImageTransform(mean=(0.5,) * 3, std=(0.5,) * 3)(images_of(2, 1, 4, 4), None)
    with pytest.raises(DataError, match=r"\(2, 7\)"):
        ImageTransform()(torch.zeros(2, 7), None)
    with pytest.raises(OptionError, match="crop_padding must be at least 0, but got -1"):
        Augmentation(crop_padding=-1)
    with pytest.raises(OptionError, match="1 and 0"):
        ImageTransform(mean=(0.5,))
    with pytest.raises(OptionError, match=r"torch\.uint8"):
        ImageTransform(dtype=torch.uint8)


def test_a_batch_of_64_images_takes_a_few_milliseconds():
    transform = ImageTransform(
        augmentation=Augmentation(crop_padding=4, flip=True, cutout=16),
        mean=(0.5,) * 3,
        std=(0.2,) * 3,
        channels_last=True,
    )
    images, draws = images_of(64, 3, 32, 32), draws_for(64, 0)

    def seconds() -> float:
        began = time.process_time()
        transform(images, draws)
        return time.process_time() - began

    assert min(seconds() for _ in range(20)) < 0.010  # about 0.002 on one idle core


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_what_the_cpu_gives():
    transform = ImageTransform(augmentation=Augmentation(crop_padding=4, flip=True, cutout=16), mean=(0.5,), std=(0.2,))
    images, draws = images_of(64, 1, 32, 32), draws_for(64, 0)
    torch.testing.assert_close(transform(images.cuda(), draws).cpu(), transform(images, draws))


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.float32])
@pytest.mark.parametrize("planes", [(), (1,), (3,)])
def test_crop_and_flip_move_a_mask_with_its_image(dtype, planes):
    """The mask is the image itself, so it must be so afterwards, at the border too."""
    images = torch.randint(1, 255, (6, 1, 7, 9), dtype=torch.uint8)
    masks = images.expand(6, *planes, 7, 9) if planes else images[:, 0]
    samples = TensorSamples(images, masks.to(dtype) if dtype.is_floating_point else masks.long())
    transform = ImageTransform(augmentation=Augmentation(crop_padding=3, flip=True))
    with InfiniteLoader(samples, batch_size=6, seed=0, transform=transform) as stream:
        inputs, targets = next(stream.batches())
    moved = (inputs * 255).round().expand(6, *planes, 7, 9) if planes else (inputs[:, 0] * 255).round()
    assert torch.equal(targets.float(), moved)
    assert targets.min() > 0  # nothing was brought in from outside
    order = (inputs.flatten(1).sum(1)[:, None] - (images / 255).flatten(1).sum(1)[None]).abs().argmin(1)
    assert not torch.equal((images / 255)[order], inputs)


def test_cutout_leaves_the_mask():
    images, masks = torch.full((4, 1, 8, 8), 255, dtype=torch.uint8), torch.ones(4, 8, 8, dtype=torch.int64)
    transform = ImageTransform(augmentation=Augmentation(cutout=4))
    outputs, targets = transform.with_masks(images, masks, torch.rand(4, 5, dtype=torch.float64))
    assert (outputs == 0).any()
    assert torch.equal(targets, masks)
