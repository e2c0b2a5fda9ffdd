"""Small spaces with every kind of choice, whose numbers can be followed by hand."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from archgrad.cell import Cell
from archgrad.choices import AlphaRow, InputChoice, LayerChoice
from archgrad.relaxation import Relaxation

__all__ = ["MixedSpace", "TabularSpace", "Times", "alphas_for"]


class Times(nn.Module):
    """x -> factor * x, with a count of its calls."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        """Return factor * x."""
        self.calls += 1
        return self.factor * x


class TabularSpace(nn.Module):
    """An MLP over a table, with nested layer choices and a choice of what the head reads.

    Args:
        features: Numbers of a sample.
        width: Of the hidden layers.
        classes: Number of logits.
        chosen: Inputs that the head reads, 1 or 2.
    """

    def __init__(self, features: int = 4, width: int = 8, classes: int = 3, *, chosen: int = 2) -> None:
        super().__init__()
        self.stem = nn.Linear(features, width)
        self.first = LayerChoice(
            {
                "dense": nn.Sequential(
                    nn.Linear(width, width),
                    LayerChoice({"tanh": nn.Tanh(), "softplus": nn.Softplus()}, label="activation"),
                ),
                "skip": nn.Identity(),
            },
            label="first",
        )
        self.second = LayerChoice([nn.Linear(width, width), nn.Tanh()], label="second")
        self.join = InputChoice(n_candidates=3, n_chosen=chosen, reduction="concat", label="join")
        self.head = nn.Linear(chosen * width, classes)

    def after_derive(self) -> None:
        """Drop the second layer if the head does not read it."""
        if 2 not in self.join.chosen:  # type: ignore[operator]  # it is a SelectInputs by then
            self.second = None  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, classes) for (B, features)."""
        stem = torch.tanh(self.stem(x))
        first = self.first(stem)
        joined: Tensor = self.head(self.join([stem, first, None if self.second is None else self.second(first)]))
        return joined


class MixedSpace(nn.Module):
    """A cell behind nested choices: every kind of choice that a supernet may hold.

    Args:
        chosen: Inputs that the input choice takes, 1 or 2.
    """

    def __init__(self, *, chosen: int = 2) -> None:
        super().__init__()
        self.table = TabularSpace(chosen=chosen)
        self.cell = Cell(2, {"none": lambda s, n: Times(0.0), "one": lambda s, n: Times(1.0)}, label="cell")

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, 6) for (B, 4)."""
        logits = self.table(x)[..., None, None]
        output: Tensor = self.cell([logits, 2.0 * logits])
        return output.flatten(1)


def alphas_for(relaxation: Relaxation, rows: Mapping[str, AlphaRow], *, seed: int = 0) -> dict[str, Tensor]:
    """Return random float64 alphas of these rows, where the relaxation has its alphas."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {
        label: torch.randn(len(row.names), generator=generator, dtype=torch.float64) for label, row in rows.items()
    }
    on_simplex = relaxation.domain == "simplex"
    return {label: torch.softmax(a, 0) if on_simplex else a for label, a in drawn.items()}
