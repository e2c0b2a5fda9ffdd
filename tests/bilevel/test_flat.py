"""The flat step against algebra: L(a) = |a|^2 c / 2 has g(a) = c a and H = c."""

from __future__ import annotations

import pytest
import torch
from bilevel_problems import ALPHAS, B, gradient, quadratic
from torch import Tensor

import archgrad as ag
from archgrad.bilevel import FirstOrder, Flat
from toys import vector


@pytest.mark.parametrize("rho", [0.1, 0.5])
def test_on_a_quadratic(rho: float) -> None:
    # d1 = c a, d2 = c (a + rho c a), h = c d2
    supernet, c = quadratic(), 3.0

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return 0.5 * c * supernet.alphas["a"].square().sum() + 0.0 * outputs.sum()

    found = gradient(Flat(rho=rho), supernet, torch.optim.SGD(supernet.weights.values(), 0.1), loss=loss)["a"]
    expected = c * (1 + rho * c) ** 2 * vector(*ALPHAS)
    assert torch.allclose(found, expected, rtol=1e-9)
    assert torch.equal(supernet.alphas["a"], vector(*ALPHAS))
    assert supernet.alphas["a"].grad is None


def test_a_rho_of_zero_is_the_first_order() -> None:
    supernet = quadratic()
    optimizer = torch.optim.SGD(supernet.weights.values(), 0.1)
    valid = (vector(1.0, 2.0), B)
    first = gradient(FirstOrder(), supernet, optimizer, valid=valid)["a"]
    assert first.norm() > 0
    assert torch.equal(gradient(Flat(rho=0.0), supernet, optimizer, valid=valid)["a"], first)


@pytest.mark.parametrize("options", [{"rho": -0.1}, {"radius": 0.0}])
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ag.errors.OptionError, match="must be"):
        Flat(**options)
