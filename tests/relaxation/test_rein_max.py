"""The mean of ReinMax's gradient over all draws, each with its probability, against the exact gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from archgrad.choices import AlphaRow
from archgrad.relaxation import ReinMax

ROW = AlphaRow(("a", "b", "c", "d"))
CANDIDATES = torch.eye(4, dtype=torch.float64)


def alpha() -> Tensor:
    return torch.tensor([0.4, -1.2, 0.9, 0.1], dtype=torch.float64, requires_grad=True)


def mean_gradient(function: Callable[[Tensor], Tensor]) -> Tensor:
    """Sum over draws of p(D) times the estimate at D."""
    total = torch.zeros(4, dtype=torch.float64)
    for drawn, p in zip(CANDIDATES, torch.softmax(alpha().detach(), 0), strict=True):
        given = alpha()
        mixture = ReinMax().mix(given, ROW, {"drawn": drawn})
        assert torch.equal(mixture.weights, drawn)
        total += p * torch.autograd.grad(function(mixture.weights), given)[0]
    return total


def exact_gradient(function: Callable[[Tensor], Tensor]) -> Tensor:
    given = alpha()
    mean = torch.stack([function(drawn) for drawn in CANDIDATES]) @ torch.softmax(given, 0)
    return torch.autograd.grad(mean, given)[0]


def test_it_is_exact_for_quadratic_functions() -> None:
    generator = torch.Generator().manual_seed(0)
    square = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    line = torch.randn(4, generator=generator, dtype=torch.float64)

    def quadratic(x: Tensor) -> Tensor:
        return x @ square @ x + line @ x

    torch.testing.assert_close(mean_gradient(quadratic), exact_gradient(quadratic), rtol=1e-12, atol=1e-14)


def test_it_is_not_exact_beyond() -> None:
    def cubic(x: Tensor) -> Tensor:
        return (x @ torch.tensor([1.0, -2.0, 3.0, 0.5], dtype=torch.float64)) ** 3

    assert (mean_gradient(cubic) - exact_gradient(cubic)).norm() > 1e-2


def test_candidates_are_drawn_by_their_probability() -> None:
    generator = torch.Generator().manual_seed(0)
    counts = sum(ReinMax().draw(alpha().detach(), ROW, None, generator)["drawn"] for _ in range(4000))
    assert counts / 4000 == pytest.approx(torch.softmax(alpha().detach(), 0), abs=0.03)
