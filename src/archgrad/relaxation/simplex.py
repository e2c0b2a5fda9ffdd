"""The relaxation of GAEA."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from archgrad.choices import AlphaRow, Draw, Mixture
from archgrad.errors import OptionError
from archgrad.relaxation.relaxation import Relaxation

__all__ = ["Simplex"]


@dataclass(frozen=True)
class Simplex(Relaxation):
    """The alphas are the mixing weights: every row is a point of the simplex, at first its middle.

    It goes with an optimizer that keeps rows there, such as `ExponentiatedGradient`.

    Source: Li et al. 2021 (GAEA), section 3.
    """

    domain = "simplex"

    def check(self, rows: Mapping[str, AlphaRow]) -> None:
        """Refuse rows of which several candidates are chosen."""
        for label, row in rows.items():
            if row.n_chosen > 1:
                raise OptionError(
                    f"Simplex mixes one candidate of each row, but '{label}' takes {row.n_chosen}. Take Softmax there."
                )

    def initial(self, row: AlphaRow, generator: torch.Generator) -> Tensor:
        """Return the middle of the simplex; nothing is drawn."""
        return torch.full((len(row.names),), 1.0 / len(row.names), dtype=torch.float64)

    def mix(self, alpha: Tensor, row: AlphaRow, draw: Draw) -> Mixture:
        """Return the alphas as they are; all candidates are active."""
        return Mixture(alpha.unsqueeze(0), tuple(range(len(row.names))))

    def expected(self, alpha: Tensor, row: AlphaRow) -> Tensor:
        """Return the alphas as they are."""
        return alpha
