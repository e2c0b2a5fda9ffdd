"""The regulariser of Lambda-DARTS."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from torch import Tensor

from archgrad.errors import OptionError
from archgrad.relaxation import Relaxation
from archgrad.schedules import Linear, Number, check_number, value_of
from archgrad.weights_rules.weights_rule import RuleResult, WeightsPass, WeightsRule

__all__ = ["LayerAlignment", "alignment"]


@dataclass(frozen=True)
class LayerAlignment(WeightsRule):
    """The weights also maximise the mean cosine between the gradients of each two layers that share their alphas.

    Layers are choices that decide together, as all normal cells do, and the gradient of a layer is that of the training
    loss with respect to its mixing weights, taken as the layer's own. Where layers pull in one direction, no layer can
    win the alphas for itself, as the last ones do when skip connections take over. The term's gradient is a central
    difference, which costs two passes of the weights more.

    Source: Movahedi et al. 2023, Lambda-DARTS; the schedule, and that reduction cells are left out, are of their code.
    """

    weight: Number = field(default=Linear(0.0, 0.125))
    """Factor of the mean cosine, at least 0; a number or a schedule. The authors' scripts go to 0.25."""
    radius: float = 1e-4
    """L2 norm, over all layers, of the step of the difference in mixing weights, above 0. The authors' scripts have
    1e-3."""
    without: str = "reduce"
    """Part of the label of layers that are left out; empty leaves out none."""

    looks_at_layers = True

    def __post_init__(self) -> None:
        check_number("weight", self.weight, least=0.0)
        check_number("radius", self.radius, above=0.0)

    def check(self, relaxation: Relaxation) -> None:
        """Refuse relaxations that draw candidates, whose layers have no gradient for those that do not run."""
        if not relaxation.runs_all:
            raise OptionError(
                f"LayerAlignment compares layers by the gradients of all candidates, but {type(relaxation).__name__} "
                f"draws those that run. Leave it out, or take relaxation=Softmax()."
            )

    def check_layers(self, labels: Collection[str]) -> None:
        """Refuse spaces in which no two layers decide together."""
        if not any(map(self._compared, labels)):
            raise OptionError(
                f"LayerAlignment compares choices that share a label without {self.without!r} in it, but this space "
                f"shares {', '.join(labels) or 'none'}. Leave it out, or give choices that decide together one label."
            )

    def _compared(self, label: str) -> bool:
        return not (self.without and self.without in label)

    def apply(self, training: WeightsPass) -> RuleResult:
        """Return the gradients with that of the term, and the mean cosine over all pairs ("layer_cosine")."""
        weight = value_of(self.weight, training.progress, "The weight of LayerAlignment")
        aligned = {label: alignment(gradients) for label, gradients in training.layers.items() if self._compared(label)}
        cosine = torch.stack([cosine for cosine, _ in aligned.values()]).mean()
        norm = torch.cat([way.flatten() for _, way in aligned.values()]).norm()
        if training.along_layers is None or weight == 0.0 or not bool(norm > 0.0):
            return RuleResult(training.gradients, {"layer_cosine": cosine})
        epsilon = self.radius / norm
        plus, minus = (
            training.along_layers({label: sign * epsilon * way for label, (_, way) in aligned.items()})
            for sign in (1.0, -1.0)
        )
        gradients = {
            name: g if g is None or p is None or m is None else g + weight * (m - p) / (2.0 * epsilon)
            for (name, g), p, m in zip(training.gradients.items(), plus.values(), minus.values(), strict=True)
        }
        return RuleResult(gradients, {"layer_cosine": cosine})


def alignment(gradients: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean cosine of each two rows, 0-dimensional, and its gradient with respect to them, (n, m).

    Args:
        gradients: (n, m), n at least 2. A row of zeros has the cosine 0 with every other, and no gradient.
    """
    pairs = len(gradients) * (len(gradients) - 1) / 2.0
    norms = gradients.norm(dim=1, keepdim=True)
    inverse = torch.where(norms > 0.0, 1.0 / norms, 0.0)
    units = gradients * inverse
    total = units.sum(0)
    cosine = (total.square().sum() - units.square().sum()) / (2.0 * pairs)
    return cosine, inverse * (total - units * (units @ total).unsqueeze(1)) / pairs
