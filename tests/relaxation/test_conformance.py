"""Every relaxation keeps to the laws. A new relaxation is one more line in RELAXATIONS."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from archgrad.relaxation import Dirichlet, Gumbel, ReinMax, Relaxation, Sigmoid, Simplex, SoftGumbel, Softmax
from archgrad.testing import NormalisedRelaxationLaws, RelaxationLaws

RELAXATIONS: dict[str, Callable[[], Relaxation]] = {
    "softmax": Softmax,
    "simplex": Simplex,
    "gumbel": Gumbel,
    "gumbel, cold": lambda: Gumbel(temperature_max=0.1),
    "dirichlet": Dirichlet,
    "reinmax": ReinMax,
    "soft gumbel": SoftGumbel,
    "soft gumbel, cold": lambda: SoftGumbel(temperature_max=0.5, temperature_min=0.2),
    "gumbel, gradient through the softmax alone": lambda: Gumbel(constant_gradient=False),
}


@pytest.mark.parametrize("name", RELAXATIONS)
class TestEveryRelaxation(NormalisedRelaxationLaws):
    @pytest.fixture
    def relaxation(self, name: str) -> Relaxation:
        return RELAXATIONS[name]()


class TestSigmoid(RelaxationLaws):
    def make(self) -> Relaxation:
        return Sigmoid()

    def test_it_says_that_it_is_not_normalised(self, relaxation: Relaxation) -> None:
        assert not relaxation.normalised
