"""Problems whose training can be worked out by hand, and the trainer on them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import archgrad as ag


def half_square(outputs: Tensor, targets: Tensor) -> Tensor:
    """mean of (y - t)^2 / 2, so that its gradient in y is y - t."""
    return ((outputs - targets) ** 2 / 2).mean()


def no_metrics(outputs: Tensor, targets: Tensor) -> dict[str, float]:
    return {}


class Zero(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 0.0 * x


class Line(nn.Module):
    """y = w x, or (w + v) x: the choice is between equals, so that the weights train alone."""

    def __init__(self, w: float = 2.0, v: float | None = None) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w, dtype=torch.float64))
        self.v = None if v is None else nn.Parameter(torch.tensor(v, dtype=torch.float64))
        self.choice = ag.LayerChoice({"a": nn.Identity(), "b": nn.Identity()}, label="choice")

    def forward(self, x: Tensor) -> Tensor:
        return (self.w if self.v is None else self.w + self.v) * self.choice(x)


class Gate(nn.Module):
    """y = p w x, where p is the probability of "one"."""

    def __init__(self, w: float = 1.0) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w, dtype=torch.float64))
        self.choice = ag.LayerChoice({"one": nn.Identity(), "zero": Zero()}, label="choice")

    def forward(self, x: Tensor) -> Tensor:
        return self.w * self.choice(x)


def ones_and_zeros(samples: int = 8) -> TensorDataset:
    """x = 1 and t = 0, so that every batch has loss y^2 / 2."""
    return TensorDataset(torch.ones(samples, dtype=torch.float64), torch.zeros(samples, dtype=torch.float64))


def images(samples: int = 48, classes: int = 3) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(samples, 1, 6, 6, generator=generator)
    return TensorDataset(inputs, torch.arange(samples) % classes)


def trainer(model: nn.Module, optimizer: Any = torch.optim.SGD, **options: Any) -> ag.DartsTrainer:
    """One epoch of one step on `ones_and_zeros`, unless told otherwise."""
    given = {
        "loss": half_square,
        "metrics": no_metrics,
        "num_epochs": 1,
        "dataset": ones_and_zeros(),
        "batch_size": 4,
        "workers": 0,
        "device": "cpu",
        "quiet": True,
    }
    return ag.DartsTrainer(model, optimizer=optimizer, **{**given, **options})


def weight(made: ag.DartsTrainer, name: str = "w") -> float:
    return made.supernet.network.get_parameter(name).item()
