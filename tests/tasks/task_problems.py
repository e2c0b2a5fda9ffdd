"""A small problem of each task: data that can be learnt, and a space with a choice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import archgrad as ag
from archgrad.data import Data, TensorSamples

LETTERS = "abcdefghijklmnopqrstuvwxyz ."
PADDING = -100


class Problem(NamedTuple):
    data: Callable[[], Data]
    space: Callable[[], nn.Module]
    task: str
    options: Mapping[str, Any] = MappingProxyType({})


def halves(inputs: Tensor, targets: Tensor, *, test: int = 24, **options: Any) -> Data:
    train, tested = (TensorSamples(inputs[part], targets[part]) for part in (slice(test, None), slice(test)))
    return Data.from_datasets(train, tested, **options)


def diabetes() -> Data:
    """Ten measures of patients, and how far their disease got in a year, standardised."""
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True)
    x, y = x[:96] * 20, (y[:96] - y.mean()) / y.std()
    return halves(torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32), name="diabetes")


def windows() -> Data:
    """Signals of one sensor; of the rare class the frequency is twice that of the other."""
    random = np.random.default_rng(0)
    kind = (np.arange(96) % 4 == 0).astype(np.int64)
    time = np.arange(32) / 32
    phase, noise = random.uniform(0, 6, (96, 1)), random.normal(0, 0.4, (96, 32))
    x = np.sin(2 * np.pi * (3 + 3 * kind[:, None]) * time + phase) + noise
    return halves(torch.tensor(x[:, None], dtype=torch.float32), torch.tensor(kind), name="windows")


def several_labels() -> Data:
    """Six numbers, and three things that are true of them or not."""
    x = torch.randn(96, 6, generator=torch.Generator().manual_seed(0))
    y = torch.stack([x[:, 0] > 0, x[:, 1] + x[:, 2] > 0.5, x[:, 3] * x[:, 4] > 0], 1).float()
    return halves(x, y, name="labels")


def masks() -> Data:
    """Digits, and for each pixel whether it is ink, and of an odd digit or an even one."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(digits.images[:64]).float()[:, None] / 16
    odd = torch.from_numpy(digits.target[:64]) % 2
    return halves(images, ((images[:, 0] > 0.4) * (1 + odd[:, None, None])).long(), name="ink")


def texts() -> Data:
    """Words of unequal lengths, padded; a letter's label is 1 in the second half of the alphabet, 2 after a blank."""
    random = np.random.default_rng(0)
    inputs, targets = torch.zeros(80, 12, dtype=torch.int64), torch.full((80, 12), PADDING)
    for row in range(80):
        length = int(random.integers(4, 13))
        letters = torch.from_numpy(random.integers(0, len(LETTERS), length))
        inputs[row, :length] = letters + 1  # 0 is padding
        targets[row, :length] = (letters >= 13).long()
        targets[row, 1:length][letters[:-1] == LETTERS.index(" ")] = 2
    return halves(inputs, targets, name="texts")


class Table(nn.Module):
    def __init__(self, features: int, num_classes: int) -> None:
        super().__init__()
        deep = nn.Sequential(nn.Linear(features, 12), nn.ReLU(), nn.Linear(12, 12))
        self.body = ag.LayerChoice({"linear": nn.Linear(features, 12), "deep": deep}, label="body")
        self.head = nn.Linear(12, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.body(x)))


class Windows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        reaches = {f"{k} long": nn.Conv1d(1, 6, k, padding=k // 2) for k in (3, 7)}
        self.body, self.head = ag.LayerChoice(reaches, label="reach"), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.body(x)).amax(-1))


class Pixels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        kernels = {f"{k}x{k}": nn.Conv2d(1, 6, k, padding=k // 2) for k in (1, 5)}
        self.body, self.head = ag.LayerChoice(kernels, label="kernel"), nn.Conv2d(6, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.body(x)))


class Letters(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(LETTERS) + 1, 8)
        self.body = ag.LayerChoice({f"{k} letters": nn.Conv1d(8, 8, k, padding=k // 2) for k in (1, 3)}, label="near")
        self.head = nn.Conv1d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.body(self.embedding(x).transpose(1, 2))))


PROBLEMS = {
    "regression": Problem(diabetes, lambda: Table(10, 1), "regression"),
    "windows": Problem(
        windows, Windows, "classification", {"class_weights": "balanced", "metrics": "accuracy,balanced_accuracy,f1"}
    ),
    "multilabel": Problem(several_labels, lambda: Table(6, 3), "multilabel"),
    "segmentation": Problem(masks, Pixels, "segmentation"),
    "sequence": Problem(texts, Letters, "sequence", {"metrics": "accuracy,f1"}),
}
