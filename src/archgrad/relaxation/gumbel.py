"""The relaxation of GDAS."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from archgrad.choices import AlphaRow, Mixture
from archgrad.errors import OptionError
from archgrad.relaxation.base import Relaxation
from archgrad.relaxation.subsets import slot_probabilities

__all__ = ["Gumbel"]


@dataclass
class Gumbel(Relaxation):
    """One candidate is drawn and runs alone; the gradient is that of the soft sample (straight-through).

    With g ~ Gumbel(0, 1) and z = (log softmax(alpha) + g) / temperature, the drawn candidate is argmax z and its
    weight is one, with the gradient of softmax(z). Where k candidates are chosen, the k largest z are drawn and the
    soft sample is the softmax over k-subsets. The temperature falls linearly from the first to the last epoch.

    Source: Dong and Yang 2019, eq. 3 to 6.
    """

    temperature_max: float = 10.0
    """Temperature of the first epoch, above 0."""
    temperature_min: float = 0.1
    """Temperature of the last epoch, above 0."""
    constant_gradient: bool = True
    """Add the weights of the candidates that did not run, which are zero, to the output, as the authors' code does, so
    that their alphas get a gradient of their own; without it their gradient comes through the softmax alone."""
    _temperature: float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("temperature_max", "temperature_min"):
            if not getattr(self, name) > 0:
                raise OptionError(f"{name} must be above 0, but got {name}={getattr(self, name)}.")
        self._temperature = self.temperature_max

    @property
    def temperature(self) -> float:
        """The temperature of the present epoch."""
        return self._temperature

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Set the temperature of epoch `epoch` (0-based) of `epochs`.

        Raises:
            OptionError: The epoch is not one of them.
        """
        if not 0 <= epoch < epochs:
            raise OptionError(f"epoch must be from 0 to epochs - 1, but got epoch={epoch}, epochs={epochs}.")
        done = epoch / (epochs - 1) if epochs > 1 else 0.0
        self._temperature = self.temperature_max - (self.temperature_max - self.temperature_min) * done

    def draw(self, row: AlphaRow, generator: torch.Generator) -> Tensor:
        """Draw Gumbel(0, 1) noise, (K,); a draw that is not finite is drawn again."""
        while True:
            exponential = torch.empty(len(row.names), dtype=torch.float64).exponential_(generator=generator)
            noise = -exponential.log()
            if bool(noise.isfinite().all()):
                return noise

    def mix(self, alpha: Tensor, row: AlphaRow, noise: Tensor | None) -> Mixture:
        """Return the hard sample with the gradient of the soft one; only the drawn candidates are active."""
        assert noise is not None
        z = (torch.log_softmax(alpha, 0) + noise.to(alpha)) / self._temperature
        soft = slot_probabilities(z, row.n_chosen)
        drawn = torch.sort(torch.topk(z.detach(), row.n_chosen).indices).values
        hard = torch.nn.functional.one_hot(drawn, len(row.names)).to(soft.dtype)
        return Mixture(hard + (soft - soft.detach()), tuple(drawn.tolist()), reaches_inactive=self.constant_gradient)
