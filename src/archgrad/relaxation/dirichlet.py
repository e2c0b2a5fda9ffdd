"""The relaxation of DrNAS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from archgrad.choices import AlphaRow, Draw, Mixture
from archgrad.errors import OptionError
from archgrad.relaxation.relaxation import Relaxation
from archgrad.schedules import Progress

__all__ = ["Dirichlet", "concentration", "pathwise_slope"]

_LEAST = 1e-30  # exp(alpha) ends in 0, where there is no Dirichlet distribution


@dataclass(frozen=True)
class Dirichlet(Relaxation):
    """Every candidate runs; the weights of a row are a sample of Dir(c) with c = ELU(alpha) + 1.

    The gradient is the pathwise one, dx/dc as the sample moves along with its distribution (implicit
    reparameterisation), with PyTorch's approximation of the Beta distribution's derivative, as in the authors' code.
    The sample is a part of the draw, so a pass that is repeated has equal weights and equal gradients. Candidates are
    ranked by the mean, c / sum c.

    Source: Chen et al. 2021 (DrNAS); the concentration is that of their code.
    """

    def check(self, rows: Mapping[str, AlphaRow]) -> None:
        """Refuse rows of which several candidates are chosen."""
        for label, row in rows.items():
            if row.n_chosen > 1:
                raise OptionError(
                    f"Dirichlet has weights that sum to one, for one candidate of each row, but '{label}' takes "
                    f"{row.n_chosen}. Take Softmax or SoftGumbel there."
                )

    def draw(self, alpha: Tensor, row: AlphaRow, progress: Progress | None, generator: torch.Generator) -> Draw:
        """Draw the sample, and its `pathwise_slope`, both (K,) float64."""
        c = concentration(alpha.detach().to("cpu", torch.float64))
        # A gamma variable of shape c is one of c + 1 times U^(1/c). Its logarithm does not underflow where c is small.
        even = torch.rand(c.shape, generator=generator, dtype=torch.float64).clamp(min=torch.finfo(c.dtype).tiny)
        log_gamma = torch._standard_gamma(c + 1.0, generator=generator).log() + even.log() / c
        sample = torch.softmax(log_gamma, 0)
        return {"sample": sample, "slope": pathwise_slope(sample, c)}

    def mix(self, alpha: Tensor, row: AlphaRow, draw: Draw) -> Mixture:
        """Return the sample with its pathwise gradient; all candidates are active."""
        sample, slope = draw["sample"].to(alpha), draw["slope"].to(alpha)
        c = concentration(alpha)
        moved = slope * (c - c.detach())  # 0, with the gradient of c
        return Mixture((sample + moved - sample * moved.sum()).unsqueeze(0), tuple(range(len(row.names))))

    def expected(self, alpha: Tensor, row: AlphaRow) -> Tensor:
        """Return the mean of the distribution."""
        c = concentration(alpha)
        return c / c.sum()


def concentration(alpha: Tensor) -> Tensor:
    """Return ELU(alpha) + 1, above 0 everywhere: exp(alpha) below 0, alpha + 1 above."""
    below = torch.where(alpha > 0, 0.0, alpha)  # a clamp at 0 has no gradient there
    return torch.where(alpha > 0, alpha + 1.0, below.exp()).clamp(min=_LEAST)


def pathwise_slope(sample: Tensor, concentration: Tensor) -> Tensor:
    """Return r with dx_i/dc_j = r_j (1[i = j] - x_i) for a sample x of Dir(c); 0 where x_j is 0 or 1, and stays there.

    Args:
        sample: (..., K), on the simplex.
        concentration: (..., K), above 0.
    """
    total = concentration.sum(-1, keepdim=True).expand_as(concentration)
    slope = torch._dirichlet_grad(sample, concentration, total)
    return torch.where((sample > 0) & (sample < 1) & slope.isfinite(), slope, 0.0)
