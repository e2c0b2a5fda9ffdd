"""ReinMax: a drawn candidate with a gradient of second order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from archgrad.choices import AlphaRow, Draw, Mixture
from archgrad.errors import OptionError
from archgrad.relaxation.relaxation import Relaxation
from archgrad.schedules import Progress

__all__ = ["ReinMax"]


@dataclass(frozen=True)
class ReinMax(Relaxation):
    """One candidate is drawn by p = softmax(alpha) and gets the weight one; the gradient is that of Heun's method.

    With D the draw and q = (D + p) / 2, the weights are D with the gradient 2 (diag q - q q') - (diag p - p p') / 2.
    Its mean is the gradient of the mean of any quadratic function of D; that of a straight-through gradient is so for
    linear ones alone. It needs the output of every candidate, so that all run, also those of weight zero.

    Source: Liu et al. 2023 (Bridging Discrete and Backpropagation), algorithm 2 at temperature 1, the only one at which
    it is of second order.
    """

    def check(self, rows: Mapping[str, AlphaRow]) -> None:
        """Refuse rows of which several candidates are chosen."""
        for label, row in rows.items():
            if row.n_chosen > 1:
                raise OptionError(
                    f"ReinMax draws one candidate of each row, but '{label}' takes {row.n_chosen}. Take Softmax or "
                    f"Gumbel there."
                )

    def draw(self, alpha: Tensor, row: AlphaRow, progress: Progress | None, generator: torch.Generator) -> Draw:
        """Draw a candidate, one-hot, (K,) float64."""
        p = torch.softmax(alpha.detach().to("cpu", torch.float64), 0)
        number = torch.multinomial(p, 1, generator=generator)
        return {"drawn": torch.zeros_like(p).index_fill_(0, number, 1.0)}

    def mix(self, alpha: Tensor, row: AlphaRow, draw: Draw) -> Mixture:
        """Return the drawn candidate's weight one and the others' zero, with the gradient; all are active."""
        drawn, p = draw["drawn"].to(alpha), torch.softmax(alpha, 0)
        q = torch.softmax(
            ((drawn + p.detach()) / 2.0).log() + (alpha - alpha.detach()), 0
        )  # its value, with a gradient
        soft = 2.0 * q - p / 2.0
        return Mixture((drawn + (soft - soft.detach())).unsqueeze(0), tuple(range(len(row.names))))
