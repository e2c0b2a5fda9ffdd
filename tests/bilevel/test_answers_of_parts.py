"""Parts of one's own that answer something else than they must are told so, by their name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from bilevel_problems import TRAIN, VALID, half_square, quadratic
from torch import Tensor
from torch.optim import SGD

import archgrad as ag
from archgrad.bilevel import FirstOrder
from archgrad.errors import OptionError
from archgrad.regularizers import Regularizer
from archgrad.weights_rules import RuleResult, WeightsPass, WeightsRule

ANSWERS: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "a number": (lambda alpha: 1.5, r"Own.value must return a 0-dimensional tensor.* returned 1.5"),
    "a row": (lambda alpha: 2 * alpha, r"returned a tensor of shape \(3,\)\."),
    "a constant": (lambda alpha: torch.tensor(1.0), r"returned a tensor of shape \(\) that depends on no alpha"),
}
RESULTS: dict[str, tuple[Callable[[WeightsPass], Any], str]] = {
    "a dict": (lambda found: found.gradients, "OwnRule.apply must return a RuleResult, but returned dict"),
    "too few": (lambda found: RuleResult({}, {}), "for each weight, but left out 'w'"),
    "too many": (
        lambda found: RuleResult({**found.gradients, "v": None}, {}),
        "for each weight, but returned one for 'v', which is none",
    ),
    "another shape": (
        lambda found: RuleResult({"w": torch.zeros(1)}, {}),
        r"that of 'w' is \(1,\) instead of \(2,\)",
    ),
}


@dataclass(frozen=True)
class Own(Regularizer):
    answer: Callable[[Tensor], Any]
    weight: float = 1.0

    def value(self, alphas: Any, rows: Any, relaxation: Any) -> Any:
        return self.answer(alphas["a"])


@dataclass(frozen=True)
class OwnRule(WeightsRule):
    answer: Callable[[WeightsPass], Any]

    def apply(self, training: WeightsPass) -> Any:
        return self.answer(training)


def take(**parts: Any) -> ag.Supernet:
    supernet = quadratic()
    ag.search_step(
        supernet,
        TRAIN,
        VALID,
        step=FirstOrder(),
        weights_optimizer=SGD(supernet.weights.values(), 0.1),
        alphas_optimizer=SGD(supernet.alphas.values(), 0.1),
        loss=half_square,
        **parts,
    )
    return supernet


@pytest.mark.parametrize("case", ANSWERS)
def test_a_wrong_answer_of_a_regularizer_is_told(case: str) -> None:
    answer, told = ANSWERS[case]
    with pytest.raises(OptionError, match=told):
        take(regularizers=[Own(answer)])


def test_a_regularizer_of_weight_zero_gives_no_gradient_not_even_zero_times_infinity() -> None:
    steep = Own(lambda alpha: (alpha - alpha.detach()).sum().sqrt(), weight=0.0)
    assert torch.equal(take(regularizers=[steep]).alphas["a"], take().alphas["a"])


@pytest.mark.parametrize("case", RESULTS)
def test_a_wrong_answer_of_a_rule_is_told(case: str) -> None:
    answer, told = RESULTS[case]
    with pytest.raises(OptionError, match=told):
        take(weights_rules=[OwnRule(answer)])
