"""Small spaces and layers that several rooms of tests use; everything in them can be computed by hand."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import archgrad as ag
from archgrad.schedules import Progress
from archgrad.testing import TabularSpace, Times

__all__ = [
    "Learnt",
    "Scales",
    "TabularSpace",
    "Times",
    "in_fresh_process",
    "relaxed",
    "same_state",
    "softmax",
    "vector",
]


class Learnt(nn.Module):
    """x -> weight * x with a scalar weight."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight, dtype=torch.float64))

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x


class Scales(nn.Module):
    """x -> (sum of weight times factor over the candidates of two choices, one after the other) x."""

    def __init__(self) -> None:
        super().__init__()
        self.first = ag.LayerChoice({"one": Times(1.0), "three": Times(3.0)}, label="first")
        self.second = ag.LayerChoice({"none": Times(0.0), "two": Times(2.0)}, label="second")

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


def relaxed(
    space: nn.Module, alphas: Mapping[str, Sequence[float]] | None = None, *, relaxation: Any = None, seed: int = 0
) -> ag.Supernet:
    """Return a float64 supernet of the space with these alphas, in the first epoch of two."""
    supernet = ag.Supernet(space, relaxation, seed=seed).double()
    supernet.progress = Progress(0, 2)
    with torch.no_grad():
        for label, row in (alphas or {}).items():
            supernet.alphas[label].copy_(torch.tensor(row, dtype=torch.float64))
    return supernet


def softmax(alphas: Sequence[float]) -> list[float]:
    return torch.softmax(torch.tensor(alphas, dtype=torch.float64), 0).tolist()


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def in_fresh_process(code: str, *, hash_seed: int) -> str:
    """Run Python code with another seed of `hash`, on which the order of sets depends; return what it prints."""
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"},
    )
    return result.stdout.strip()


def same_state(module: nn.Module, state: Mapping[str, Tensor]) -> bool:
    """Whether the module's state dict is this one, bit for bit and in this order."""
    own = module.state_dict()
    return list(own) == list(state) and all(torch.equal(own[name], value) for name, value in state.items())
