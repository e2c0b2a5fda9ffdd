"""The adversarial perturbation of SmoothDARTS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from archgrad.choices import AlphaRow, Draw, Mixture
from archgrad.errors import OptionError
from archgrad.perturbations.perturbation import Perturbation, Probe
from archgrad.perturbations.uniform import check_mixes_all, onto_simplex, uniform_noise
from archgrad.relaxation import Relaxation
from archgrad.schedules import Linear, Number, Progress, check_number, value_of

__all__ = ["Adversarial", "attacked"]


@dataclass(frozen=True)
class Adversarial(Perturbation):
    """The mixing weights p become those near p at which the training batch has the highest loss (see `attacked`).

    The weights of the network so learn to do well at the worst place around the present mixture. A step of the weights
    costs `steps` + 2 passes more, all in evaluation mode.

    Source: Chen and Hsieh 2020, SDARTS-ADV; the schedule of the radius is that of their code.
    """

    radius: Number = field(default=Linear(0.03, 0.3, "end"))
    """Largest change of a mixing weight before it is brought back to the simplex, at least 0: a number or schedule."""
    steps: int = 7
    """Steps of the ascent, at least 1."""

    def __post_init__(self) -> None:
        check_number("radius", self.radius, least=0.0)
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise OptionError(f"steps must be a whole number of at least 1, but got steps={self.steps!r}.")

    def check(self, relaxation: Relaxation) -> None:
        """Refuse relaxations that draw candidates, or whose weights do not sum to one."""
        check_mixes_all(self, relaxation)

    def draw(
        self,
        mixtures: Mapping[str, Mixture],
        rows: Mapping[str, AlphaRow],
        progress: Progress | None,
        generator: torch.Generator,
        probe: Probe,
    ) -> dict[str, Draw]:
        """Climb the loss from a random start; all rows together."""
        radius = value_of(self.radius, progress, "The radius of Adversarial")
        found = attacked(mixtures, uniform_noise(mixtures, radius, generator), radius, self.steps, probe)
        return {label: {"slots": slots} for label, slots in found.items()}

    def apply(self, mixture: Mixture, row: AlphaRow, draw: Draw) -> Mixture:
        """Put the weights that were found in the place of the candidates' own."""
        return replace(mixture, slots=draw["slots"].to(mixture.slots))


def attacked(
    mixtures: Mapping[str, Mixture], noise: Mapping[str, Tensor], radius: float, steps: int, probe: Probe
) -> dict[str, Tensor]:
    """Return mixing weights near those given at which the loss is higher, by label; those given if none was found.

    From p + noise, `steps` times: a step of 2 radius / steps along the sign of the loss's gradient, into
    [p - radius, p + radius], and back to the simplex (see `onto_simplex`), which may leave that box.

    Args:
        mixtures: With the weights p.
        noise: By label, shaped as the mixture's slots, within the radius.
        radius: At least 0.
        steps: At least 1.
        probe: Gives the loss and its gradient.

    Source: the authors' code of SmoothDARTS; where a gradient is 0, as that of "none" is, the step is 0.
    """
    own = {label: mixture.slots for label, mixture in mixtures.items()}
    slots = {label: onto_simplex(p + noise[label].to(p), mixtures[label].active) for label, p in own.items()}
    for _ in range(steps):
        _, gradients = probe(slots)
        for label, p in own.items():
            moved = slots[label] + 2.0 * radius / steps * gradients[label].sign()
            slots[label] = onto_simplex(moved.clamp(p - radius, p + radius), mixtures[label].active)
    higher = probe(slots)[0] > probe(own)[0]  # stays on the device: no pass waits for it
    return {label: torch.where(higher, slots[label], p) for label, p in own.items()}
