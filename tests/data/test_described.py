"""What data a run reads is said in one line."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from archgrad.data import Data, as_data, described, load
from archgrad.data.samples import TensorSamples


def pictures(channels: int, height: int, width: int, count: int = 30) -> TensorSamples:
    return TensorSamples(torch.zeros(count, channels, height, width, dtype=torch.uint8), torch.arange(count) % 3)


@pytest.mark.parametrize(
    ("data", "halves", "unit", "text"),
    [
        (
            Data.from_datasets(pictures(3, 40, 40), pictures(3, 40, 40, 9)),
            (24, 6),
            "images",
            "30 images, 3 classes, 24/6 for weights/alphas, 40x40 RGB, 9 for the test",
        ),
        (Data.from_datasets(pictures(1, 4, 6)), (30,), "images", "30 images, 3 classes, 4x6 grey, no test set"),
        (Data.from_datasets(pictures(5, 6, 6)), (), "images", "30 images, 3 classes, 6x6 of 5 channels, no test set"),
        (
            (torch.zeros(8, 6, 128), torch.arange(8) % 2),
            (),
            "samples",
            "8 samples, 2 classes, inputs of shape (6, 128), no test set",
        ),
        (
            (torch.zeros(8, 9), torch.arange(8) % 2 + 1),
            (),
            "samples",
            "8 samples, 3 classes (no training sample of '0'), inputs of shape (9,)",
        ),
        (
            (torch.zeros(8, 9), torch.arange(8) % 2 + 7),
            (),
            "samples",
            "8 samples, 9 classes (no training sample of '0', '1', '2', ...), inputs",
        ),
        ((torch.zeros(8, 9), torch.rand(8)), (), "samples", "8 samples, targets of one number, inputs of shape (9,)"),
        ((torch.zeros(8, 9), torch.rand(8, 2)), (), "samples", "targets of shape (2,)"),
        ((torch.zeros(8), torch.rand(8)), (), "samples", "inputs of one number"),
        (
            ({"tokens": torch.zeros(8, 9), "mask": torch.zeros(8, 9)}, torch.rand(8)),
            (5, 3),
            "samples",
            "5/3 for weights/alphas, inputs of 'tokens' of shape (9,), 'mask' of shape (9,), no test set",
        ),
        (((torch.zeros(8, 9), torch.zeros(8)), torch.rand(8)), (), "samples", "inputs of shape (9,) and one number"),
    ],
)
def test_the_line_tells_count_classes_split_and_shape(data: Any, halves: tuple[int, ...], unit: str, text: str) -> None:
    said = described(as_data(data), halves)
    assert said.unit == unit
    assert text in said.text


def test_the_digits_are_described() -> None:
    text = "1437 images, 10 classes, 8x8 grey, 360 for the test"
    assert described(load("digits")) == ("images", text)
