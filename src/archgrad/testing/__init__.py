"""Laws that parts, choices and spaces must keep to, as test classes to inherit; needs pytest.

class TestMine(archgrad.testing.NormalisedRelaxationLaws):
    def make(self):
        return Mine()
"""

from archgrad.testing.part_laws import (
    AlphasOptimizerLaws,
    AlwaysOnLaws,
    PerturbationLaws,
    RegularizerLaws,
    WeightsRuleLaws,
)
from archgrad.testing.relaxation_laws import NormalisedRelaxationLaws, RelaxationLaws
from archgrad.testing.rule_laws import BilevelStepLaws, ChoiceLaws, SelectionLaws, SpaceLaws, StoppingLaws
from archgrad.testing.toy_spaces import MixedSpace, TabularSpace, Times, alphas_for

__all__ = [
    "AlphasOptimizerLaws",
    "AlwaysOnLaws",
    "BilevelStepLaws",
    "ChoiceLaws",
    "MixedSpace",
    "NormalisedRelaxationLaws",
    "PerturbationLaws",
    "RegularizerLaws",
    "RelaxationLaws",
    "SelectionLaws",
    "SpaceLaws",
    "StoppingLaws",
    "TabularSpace",
    "Times",
    "WeightsRuleLaws",
    "alphas_for",
]
