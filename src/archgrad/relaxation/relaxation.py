"""What a relaxation must answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from archgrad.choices import AlphaRow, Draw, Mixture
from archgrad.relaxation.subsets import inclusion_probabilities
from archgrad.schedules import Progress

__all__ = ["Domain", "Relaxation"]

Domain = Literal["logits", "simplex"]


class Relaxation(ABC):
    """Turns a row of alphas into the mixture of one forward pass.

    A relaxation holds options only: no alphas, no generator, and nothing that changes from one pass to the next.
    Whatever changes, such as noise or a temperature, is a tensor of the draw, so that a pass can be repeated with its
    draw, be recorded, and be resumed.
    """

    domain = "logits"
    """Where alphas live: "logits" are any real numbers; a row on the "simplex" is at least 0 and sums to one."""
    runs_all = True
    """Whether every candidate runs in every pass; False where a pass runs the candidates that were drawn."""
    normalised = True
    """Whether each chosen place has weights that sum to one."""

    def check(self, rows: Mapping[str, AlphaRow]) -> None:
        """Raise OptionError if a row, by label, cannot be relaxed in this way."""

    def initial(self, row: AlphaRow, generator: torch.Generator) -> Tensor:
        """Return the first alphas of a row, (K,) float64: 1e-3 N(0, 1), as the authors of DARTS do."""
        return 1e-3 * torch.randn(len(row.names), generator=generator, dtype=torch.float64)

    def temperature(self, progress: Progress) -> float | None:
        """Return the temperature of the running epoch for metrics.csv, or None where there is none."""
        return None

    def draw(self, alpha: Tensor, row: AlphaRow, progress: Progress | None, generator: torch.Generator) -> Draw:
        """Return what one forward pass needs beside the alphas, by name; by default nothing.

        Args:
            alpha: (K,), the row's alphas, without graph.
            row: What the K entries stand for.
            progress: How far the search is; None where nobody said (see `archgrad.schedules.value_of`).
            generator: On the CPU; the only source of random numbers.
        """
        return {}

    @abstractmethod
    def mix(self, alpha: Tensor, row: AlphaRow, draw: Draw) -> Mixture:
        """Return the mixture of one forward pass, a differentiable function of alpha.

        Args:
            alpha: (K,); any real values, or a point of the simplex (see `domain`).
            row: What the K entries stand for, and how many are chosen.
            draw: What `draw` gave; on any device, in any floating type.
        """

    def expected(self, alpha: Tensor, row: AlphaRow) -> Tensor:
        """Return (K,), the expected weight of each candidate, a differentiable function of alpha; costs read it."""
        return inclusion_probabilities(alpha, row.n_chosen)

    def probabilities(self, alpha: Tensor, row: AlphaRow) -> Tensor:
        """Return (K,), the probability that each candidate is chosen, which ranks them in derivation and reports."""
        return self.expected(alpha, row)
