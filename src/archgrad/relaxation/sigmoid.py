"""The relaxation of FairDARTS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from archgrad.choices import AlphaRow, Draw, Mixture
from archgrad.errors import OptionError
from archgrad.relaxation.relaxation import Relaxation

__all__ = ["Sigmoid"]


@dataclass(frozen=True)
class Sigmoid(Relaxation):
    """Every candidate runs behind a gate of its own, sigmoid(alpha): gates do not compete and sum to anything.

    Every gate is half open at first. It goes with the regulariser `ZeroOne`, which opens or shuts gates.

    Source: Chu et al. 2020 (FairDARTS).
    """

    normalised = False

    def check(self, rows: Mapping[str, AlphaRow]) -> None:
        """Refuse rows of which several candidates are chosen."""
        for label, row in rows.items():
            if row.n_chosen > 1:
                raise OptionError(
                    f"Sigmoid has one gate a candidate and no order of chosen places, but '{label}' takes "
                    f"{row.n_chosen}. Take Softmax there."
                )

    def initial(self, row: AlphaRow, generator: torch.Generator) -> Tensor:
        """Return zeros; nothing is drawn."""
        return torch.zeros(len(row.names), dtype=torch.float64)

    def mix(self, alpha: Tensor, row: AlphaRow, draw: Draw) -> Mixture:
        """Return the gates; all candidates are active."""
        return Mixture(torch.sigmoid(alpha).unsqueeze(0), tuple(range(len(row.names))))

    def expected(self, alpha: Tensor, row: AlphaRow) -> Tensor:
        """Return the gates."""
        return torch.sigmoid(alpha)
