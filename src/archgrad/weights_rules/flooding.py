"""Flooding, the regulariser of the weights in beta-DARTS++."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from archgrad.schedules import Number, check_number, value_of
from archgrad.weights_rules.weights_rule import RuleResult, WeightsPass, WeightsRule

__all__ = ["Flooding"]


@dataclass(frozen=True)
class Flooding(WeightsRule):
    """The weights minimise |L - b| + b instead of the training loss L: below the level b they climb again.

    The gradient is that of L times the sign of L - b, with L over the whole batch, all of its parts and processes.

    Source: Ishida et al. 2020, eq. 1. beta-DARTS++ (Ye et al. 2023) adds it to `BetaDecay`.
    """

    level: Number
    """b, at least 0, in units of the loss; a number or a schedule. None is known that is good for every task: Ishida et
    al. choose it by validation, between 0 and 0.2 for cross-entropy."""

    def __post_init__(self) -> None:
        check_number("level", self.level, least=0.0)

    def apply(self, training: WeightsPass) -> RuleResult:
        """Return the gradients, turned round below the level, and the share of steps that were ("flooded")."""
        height = training.loss - value_of(self.level, training.progress, "The level of Flooding")
        sign = torch.sign(height)  # stays on the device
        turned = {name: None if g is None else g * sign.to(g) for name, g in training.gradients.items()}
        return RuleResult(turned, {"flooded": (height < 0).to(height)})
