"""What is done to the weights' gradient before they take their step: one rule a file."""

from archgrad.weights_rules.flooding import Flooding
from archgrad.weights_rules.freeze_operations import FreezeOperations, gradient_match
from archgrad.weights_rules.layer_alignment import LayerAlignment, alignment
from archgrad.weights_rules.weights_rule import Gradients, RuleResult, WeightsPass, WeightsRule

__all__ = [
    "Flooding",
    "FreezeOperations",
    "Gradients",
    "LayerAlignment",
    "RuleResult",
    "WeightsPass",
    "WeightsRule",
    "alignment",
    "gradient_match",
]
