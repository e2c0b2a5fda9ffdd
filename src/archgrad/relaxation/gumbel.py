"""The relaxation of GDAS, and the noise that it shares with that of SNAS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from archgrad.choices import AlphaRow, Draw, Mixture
from archgrad.errors import OptionError
from archgrad.relaxation.relaxation import Relaxation
from archgrad.relaxation.subsets import slot_probabilities
from archgrad.schedules import Linear, Progress, value_of

__all__ = ["Gumbel"]


class WithGumbelNoise(Relaxation):
    """What the relaxations with Gumbel(0, 1) noise and a falling temperature have in common."""

    temperature_max: float
    temperature_min: float
    reached: Literal["last-epoch", "end"]
    """When the lower temperature is reached (see `Linear`)."""

    def __post_init__(self) -> None:
        for name in ("temperature_max", "temperature_min"):
            if not getattr(self, name) > 0:
                raise OptionError(f"{name} must be above 0, but got {name}={getattr(self, name)}.")

    @property
    def _schedule(self) -> Linear:
        return Linear(self.temperature_max, self.temperature_min, self.reached)

    def temperature(self, progress: Progress) -> float:
        """Return the temperature of the running epoch."""
        return self._schedule.value(progress)

    def draw(self, alpha: Tensor, row: AlphaRow, progress: Progress | None, generator: torch.Generator) -> Draw:
        """Draw Gumbel(0, 1) noise, (K,), anew if it is not finite; and tell the temperature, ()."""
        temperature = value_of(self._schedule, progress, f"The temperature of {type(self).__name__}")
        while True:
            noise = -torch.empty(len(row.names), dtype=torch.float64).exponential_(generator=generator).log()
            if bool(noise.isfinite().all()):
                return {"noise": noise, "temperature": torch.tensor(temperature, dtype=torch.float64)}


@dataclass(frozen=True)
class Gumbel(WithGumbelNoise):
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

    runs_all = False
    reached = "last-epoch"

    def mix(self, alpha: Tensor, row: AlphaRow, draw: Draw) -> Mixture:
        """Return the hard sample with the gradient of the soft one; only the drawn candidates are active."""
        z = (torch.log_softmax(alpha, 0) + draw["noise"].to(alpha)) / draw["temperature"].to(alpha)
        soft = slot_probabilities(z, row.n_chosen)
        drawn = torch.sort(torch.topk(z.detach(), row.n_chosen).indices).values
        hard = torch.nn.functional.one_hot(drawn, len(row.names)).to(soft.dtype)
        return Mixture(hard + (soft - soft.detach()), tuple(drawn.tolist()), straight_through=self.constant_gradient)
