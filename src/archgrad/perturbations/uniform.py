"""The random perturbation of SmoothDARTS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from archgrad.choices import AlphaRow, Draw, Mixture
from archgrad.errors import OptionError
from archgrad.perturbations.perturbation import Perturbation, Probe
from archgrad.relaxation import Relaxation
from archgrad.schedules import Linear, Number, Progress, check_number, value_of

__all__ = ["Uniform", "onto_simplex"]


@dataclass(frozen=True)
class Uniform(Perturbation):
    """Each mixing weight p becomes p + U(-radius, radius), brought back to the simplex (see `onto_simplex`).

    The weights of the network so learn to do well all around the present mixture, which flattens the validation loss
    as a function of the alphas.

    Source: Chen and Hsieh 2020, SDARTS-RS; the schedule of the radius is that of their code.
    """

    radius: Number = field(default=Linear(0.03, 0.3, "end"))
    """Largest change of a mixing weight, at least 0; a number or a schedule."""

    def __post_init__(self) -> None:
        check_number("radius", self.radius, least=0.0)

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
        """Draw the noise, shaped as each row's mixture; `probe` is not used."""
        radius = value_of(self.radius, progress, "The radius of Uniform")
        return {label: {"noise": noise} for label, noise in uniform_noise(mixtures, radius, generator).items()}

    def apply(self, mixture: Mixture, row: AlphaRow, draw: Draw) -> Mixture:
        """Add the noise to the weights of the candidates that run."""
        return replace(mixture, slots=onto_simplex(mixture.slots + draw["noise"].to(mixture.slots), mixture.active))


def uniform_noise(mixtures: Mapping[str, Mixture], radius: float, generator: torch.Generator) -> dict[str, Tensor]:
    """Return U(-radius, radius) by label, shaped as each mixture's slots, on the CPU in float64."""
    return {
        label: radius * (2.0 * torch.rand(mixture.slots.shape, generator=generator, dtype=torch.float64) - 1.0)
        for label, mixture in mixtures.items()
    }


def onto_simplex(weights: Tensor, active: Sequence[int] | None = None) -> Tensor:
    """Return mixing weights that sum to one again: cut to [0, 1] and divided by their sum; of all 0, the largest is 1.

    Args:
        weights: (..., K).
        active: The candidates that may have a weight; None for all.

    Source: the authors' code of SmoothDARTS. Of equal largest entries the first is taken.
    """
    if active is not None and len(active) < weights.shape[-1]:
        never = torch.full_like(weights[..., 0], -torch.inf)
        weights = torch.stack([weights[..., k] if k in active else never for k in range(weights.shape[-1])], -1)
    largest = torch.zeros_like(weights).scatter(-1, weights.argmax(-1, keepdim=True), 1.0)
    cut = weights.clamp(0.0, 1.0)
    cut = torch.where(cut.sum(-1, keepdim=True) == 0.0, largest, cut)
    return cut / cut.sum(-1, keepdim=True)


def check_mixes_all(perturbation: Perturbation, relaxation: Relaxation) -> None:
    """Raise OptionError unless all candidates run, with weights that sum to one."""
    if not (relaxation.runs_all and relaxation.normalised):
        why = "draws the candidates that run" if not relaxation.runs_all else "has weights that do not sum to one"
        raise OptionError(
            f"{type(perturbation).__name__} moves the weights of all candidates on the simplex, but "
            f"{type(relaxation).__name__} {why}. Leave the perturbation out, or take Softmax."
        )
