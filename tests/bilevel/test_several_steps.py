"""The hypergradient through several steps: by algebra, by the optimizer's own steps, and in the limit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from bilevel_problems import (
    A,
    B,
    P,
    W,
    by_central_differences,
    gradient,
    half_square,
    quadratic,
    relative_error,
    table_batch,
    tabular,
    through_softmax,
    two_groups,
    warm_up,
)

import archgrad as ag
from archgrad.bilevel import Implicit, Unrolled
from archgrad.errors import OptionError

BOTH = [{"hvp": "finite-difference"}, {"hvp": "exact"}]
G = W - A @ P


@pytest.mark.parametrize("hvp", BOTH)
@pytest.mark.parametrize("steps", [2, 5])
def test_plain_sgd_on_the_quadratic(hvp: dict[str, Any], steps: int) -> None:
    # w_K = A p + (1 - lr)^K (w - A p); dw_K/dp = (1 - (1 - lr)^K) A
    supernet, left = quadratic(), 0.9**steps
    optimizer = torch.optim.SGD(supernet.weights.values(), 0.1)
    found = gradient(Unrolled(steps=steps, **hvp), supernet, optimizer)["a"]
    expected = through_softmax((1.0 - left) * A.T @ (A @ P + left * G - B))
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=0.0)


@pytest.mark.parametrize("hvp", BOTH)
@pytest.mark.parametrize("truncation", [1, 2, 4])
def test_truncation_takes_the_last_steps_alone(hvp: dict[str, Any], truncation: int) -> None:
    # to w_(K - T) the weights count as constants: dw_K/dp = (1 - (1 - lr)^T) A
    supernet, left = quadratic(), 0.9**4
    optimizer = torch.optim.SGD(supernet.weights.values(), 0.1)
    found = gradient(Unrolled(steps=4, truncation=truncation, **hvp), supernet, optimizer)["a"]
    expected = through_softmax((1.0 - 0.9**truncation) * A.T @ (A @ P + left * G - B))
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=0.0)


def test_many_steps_end_at_the_implicit_gradient() -> None:
    # at the minimum w* = A p of the training loss, to which the steps converge
    supernet = quadratic()
    many = gradient(Unrolled(steps=300, hvp="exact"), supernet, torch.optim.SGD(supernet.weights.values(), 0.1))["a"]
    with torch.no_grad():
        supernet.weights["w"].copy_(A @ P)
    optimizer = torch.optim.SGD(supernet.weights.values(), 0.1)
    for implicit in (Implicit(solver="cg", iterations=2), Implicit(iterations=400)):
        torch.testing.assert_close(gradient(implicit, supernet, optimizer)["a"], many, rtol=1e-9, atol=0.0)


def test_truncated_steps_at_the_minimum_are_the_neumann_series() -> None:
    # (I - lr H)^j, j < T; iterations counts the products with H, one less than the terms
    torch.manual_seed(0)
    supernet = quadratic()
    with torch.no_grad():
        supernet.weights["w"].copy_(A @ P)
    optimizer = torch.optim.SGD(supernet.weights.values(), 0.2)
    for terms in (1, 3):
        truncated = gradient(Unrolled(steps=6, truncation=terms), supernet, optimizer, loss=half_square)["a"]
        series = gradient(Implicit(iterations=terms - 1), supernet, optimizer, loss=half_square)["a"]
        torch.testing.assert_close(truncated, series, rtol=1e-8, atol=0.0)


SGDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "decay": {"weight_decay": 0.3},
    "momentum": {"momentum": 0.9, "weight_decay": 0.1},
    "nesterov": {"momentum": 0.8, "nesterov": True, "weight_decay": 0.1},
    "dampening": {"momentum": 0.7, "dampening": 0.4},
    "climbing": {"momentum": 0.9, "maximize": True, "weight_decay": 0.1, "dampening": 0.2},
}


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("name", SGDS)
def test_the_gradient_is_that_of_the_optimizers_own_steps(name: str, warm: bool) -> None:
    supernet = tabular()
    optimizer = torch.optim.SGD(two_groups(supernet), 0.2, **SGDS[name])
    if warm:
        warm_up(optimizer)
    train, valid = table_batch(1), table_batch(2)
    expected = by_central_differences(supernet, optimizer, train, valid, steps=3)
    exact = gradient(Unrolled(steps=3, hvp="exact"), supernet, optimizer, train, valid, F.cross_entropy)
    assert relative_error(exact, expected) < 1e-7
    difference = Unrolled(steps=3, finite_difference_radius=1e-4)
    assert relative_error(gradient(difference, supernet, optimizer, train, valid, F.cross_entropy), expected) < 1e-6


@pytest.mark.parametrize("hvp", BOTH)
def test_a_learning_rate_of_zero_is_the_first_order(hvp: dict[str, Any]) -> None:
    supernet = tabular()
    optimizer = torch.optim.SGD(supernet.weights.values(), 0.0, momentum=0.9, weight_decay=0.1)
    batches = (table_batch(1), table_batch(2), F.cross_entropy)
    first = gradient(ag.FirstOrder(), supernet, optimizer, *batches)
    assert relative_error(gradient(Unrolled(steps=3, **hvp), supernet, optimizer, *batches), first) < 1e-12


@pytest.mark.parametrize("hvp", BOTH)
def test_parts_add_up_to_the_whole(hvp: dict[str, Any]) -> None:
    supernet = tabular()
    optimizer = torch.optim.SGD(supernet.weights.values(), 0.3, momentum=0.9)
    warm_up(optimizer)
    whole, parts = (
        Unrolled(steps=3, truncation=2, **hvp)
        .alphas_gradient(
            supernet, table_batch(1), table_batch(2), loss=F.cross_entropy, weights_optimizer=optimizer, accumulation=n
        )
        .gradients
        for n in (1, 3)
    )
    for name, g in whole.items():
        torch.testing.assert_close(parts[name], g, rtol=1e-6, atol=1e-9)


def test_the_optimizer_keeps_its_state() -> None:
    supernet = tabular()
    optimizer = torch.optim.SGD(supernet.weights.values(), 0.3, momentum=0.9)
    warm_up(optimizer)
    before = [state["momentum_buffer"].clone() for state in optimizer.state.values()]
    gradient(Unrolled(steps=3), supernet, optimizer, table_batch(1), table_batch(2), F.cross_entropy)
    assert all(torch.equal(s["momentum_buffer"], b) for s, b in zip(optimizer.state.values(), before, strict=True))
    assert all(weight.grad is None for weight in supernet.weights.values())


def test_what_cannot_be_done_is_refused() -> None:
    supernet = tabular()
    Unrolled().check(torch.optim.Adam(supernet.weights.values()))
    with pytest.raises(OptionError, match="several steps of SGD alone, but the weights' optimizer is Adam"):
        Unrolled(steps=2).check(torch.optim.Adam(supernet.weights.values()))
    for options in ({"steps": 0}, {"steps": 1.5}, {"steps": 3, "truncation": 4}, {"truncation": 0}):
        with pytest.raises(OptionError, match="must be a whole number"):
            Unrolled(**options)  # type: ignore[arg-type]
