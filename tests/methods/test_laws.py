"""Every part keeps to the laws of its kind. A new part is one more line here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from torch import nn

import archgrad as ag
from archgrad import testing
from archgrad.always_on import AlwaysOn, AuxiliarySkip
from archgrad.bilevel import BilevelStep, FirstOrder, Flat, Implicit, Unrolled
from archgrad.choices import Choice
from archgrad.optimizers import Adam, AlphasOptimizer, ExponentiatedGradient
from archgrad.perturbations import Adversarial, Perturbation, Uniform
from archgrad.regularizers import BetaDecay, DirichletKL, Entropy, Regularizer, ZeroOne
from archgrad.relaxation import Dirichlet, Relaxation, Sigmoid
from archgrad.schedules import Cosine, Exponential
from archgrad.selection import Likeliest, OneShot, PerturbationBased, Selection, SkipLimit, Threshold
from archgrad.stopping import EpochLimit, HessianEigenvalue, SkipCount, Stopping
from archgrad.weights_rules import Flooding, FreezeOperations, LayerAlignment, WeightsRule

REGULARIZERS: dict[str, Callable[[], Regularizer]] = {"beta decay": BetaDecay, "entropy": Entropy}
PERTURBATIONS: dict[str, Callable[[], Perturbation]] = {
    "uniform": Uniform,
    "wide": lambda: Uniform(radius=2.0),
    "adversarial": Adversarial,
}
WEIGHTS_RULES: dict[str, Callable[[], WeightsRule]] = {
    "flooding": lambda: Flooding(0.5),
    "freeze operations": lambda: FreezeOperations(interval=1),
    "layer alignment": LayerAlignment,
}
OPTIMIZERS: dict[str, Callable[[], AlphasOptimizer]] = {
    "adam": Adam,
    "adam, cosine": lambda: Adam(learning_rate=Cosine(0.1, 0.01)),
    "exponentiated gradient": ExponentiatedGradient,
    "exponentiated gradient, exponential": lambda: ExponentiatedGradient(learning_rate=Exponential(0.1, 0.01)),
}
STEPS: dict[str, Callable[[], BilevelStep]] = {
    "first order": FirstOrder,
    "unrolled": Unrolled,
    "flat": Flat,
    "implicit": Implicit,
    "exact": lambda: Unrolled(hvp="exact"),
    "several steps": lambda: Unrolled(steps=3, truncation=2),
}
STOPPING: dict[str, Callable[[], Stopping]] = {
    "skip count": lambda: SkipCount(limit=1),
    "epoch limit": lambda: EpochLimit(epochs=1),
    "hessian eigenvalue": lambda: HessianEigenvalue(frequency=1, window=1, factor=0.5, start_epoch=0, delta=1),
}
SELECTIONS: dict[str, Callable[[], Selection]] = {
    "likeliest": Likeliest,
    "threshold": lambda: Threshold(0.4),
    "skip limit": lambda: SkipLimit(limit=0),
    "one-shot": OneShot,
    "perturbation-based": PerturbationBased,
    "perturbation-based, by the loss": lambda: PerturbationBased(tune_epochs=0, criterion="loss"),
}


@pytest.mark.parametrize("name", REGULARIZERS)
class TestRegularizers(testing.RegularizerLaws):
    @pytest.fixture
    def part(self, name: str) -> Regularizer:
        return REGULARIZERS[name]()


class TestDirichletKL(testing.RegularizerLaws):
    def make(self) -> Regularizer:
        return DirichletKL()

    def make_relaxation(self) -> Relaxation:
        return Dirichlet()


@pytest.mark.parametrize("norm", ["l2", "l1"])
class TestZeroOne(testing.RegularizerLaws):
    @pytest.fixture
    def part(self, norm: Literal["l2", "l1"]) -> Regularizer:
        return ZeroOne(norm=norm)

    def make_relaxation(self) -> Relaxation:
        return Sigmoid()


@pytest.mark.parametrize("name", PERTURBATIONS)
class TestPerturbations(testing.PerturbationLaws):
    @pytest.fixture
    def part(self, name: str) -> Perturbation:
        return PERTURBATIONS[name]()


@pytest.mark.parametrize("name", WEIGHTS_RULES)
class TestWeightsRules(testing.WeightsRuleLaws):
    @pytest.fixture
    def part(self, name: str) -> WeightsRule:
        return WEIGHTS_RULES[name]()


class TestAuxiliarySkip(testing.AlwaysOnLaws):
    def make(self) -> AlwaysOn:
        return AuxiliarySkip()


@pytest.mark.parametrize("name", OPTIMIZERS)
class TestOptimizers(testing.AlphasOptimizerLaws):
    @pytest.fixture
    def part(self, name: str) -> AlphasOptimizer:
        return OPTIMIZERS[name]()


@pytest.mark.parametrize("name", STEPS)
class TestSteps(testing.BilevelStepLaws):
    @pytest.fixture
    def part(self, name: str) -> BilevelStep:
        return STEPS[name]()


class TestSkipCount(testing.StoppingLaws):
    def make(self) -> Stopping:
        return STOPPING["skip count"]()


class TestHessianEigenvalue(testing.StoppingLaws):
    def make(self) -> Stopping:
        return STOPPING["hessian eigenvalue"]()


@pytest.mark.parametrize("name", SELECTIONS)
class TestSelections(testing.SelectionLaws):
    @pytest.fixture
    def part(self, name: str) -> Selection:
        return SELECTIONS[name]()


class TestLayerChoice(testing.ChoiceLaws):
    def make(self) -> Choice:
        return ag.LayerChoice({"a": nn.Linear(3, 3), "b": nn.Tanh(), "c": nn.Identity()})

    def arguments(self) -> list[Any]:
        return [torch.randn(2, 3)]


class TestInputChoice(testing.ChoiceLaws):
    def make(self) -> Choice:
        return ag.InputChoice(4, 2)

    def arguments(self) -> list[Any]:
        return [[torch.randn(2, 3) for _ in range(4)]]


class TestTiny(testing.SpaceLaws):
    def make(self) -> nn.Module:
        return ag.spaces.tiny(channels=2)

    def inputs(self) -> Any:
        return torch.randn(4, 1, 8, 8)
