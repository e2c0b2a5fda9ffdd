"""The look-ahead is where the optimizer's own step goes, and its slope is the derivative of that step."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from bilevel_problems import gradient, quadratic, warm_up
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import Optimizer

import archgrad as ag
from archgrad.bilevel import FirstOrder, Unrolled
from archgrad.bilevel.lookahead import look_ahead
from archgrad.errors import OptionError
from toys import relaxed, vector


def step_of(optimizer: Optimizer, names: list[str], gradients: dict[str, Tensor | None]) -> dict[str, Tensor]:
    """The weights after the optimizer's own step, taken on a copy."""
    optimizer = copy.deepcopy(optimizer)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for name, parameter in zip(names, parameters, strict=True):
        g = gradients[name]
        parameter.grad = None if g is None else g.clone()
    optimizer.step()
    return {name: p.detach() for name, p in zip(names, parameters, strict=True)}


def drawn(seed: int, shapes: tuple[tuple[int, ...], ...] = ((3,), (2, 2))) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {str(i): torch.randn(s, generator=generator, dtype=torch.float64) for i, s in enumerate(shapes)}


def assert_looks_ahead(optimizer: Optimizer, weights: dict[str, nn.Parameter], seed: int = 1) -> None:
    gradients: dict[str, Tensor | None] = {**drawn(seed)}
    names = list(weights)
    ahead = look_ahead(optimizer, weights, gradients)
    theirs = step_of(optimizer, names, gradients)
    for name in names:
        assert torch.allclose(ahead.weights[name], theirs[name], rtol=1e-12, atol=1e-14)
        assert not ahead.weights[name].requires_grad
    # dU/dg by central differences of the optimizer's own step; w' = w - U(g), elementwise in g
    h = 1e-6
    sides = [
        step_of(optimizer, names, {n: None if g is None else g + s * h for n, g in gradients.items()}) for s in (1, -1)
    ]
    ones: dict[str, Tensor | None] = {name: torch.ones_like(weight) for name, weight in weights.items()}
    slopes = ahead.pull_back(ones)
    for name in names:
        assert torch.allclose(slopes[name], -(sides[0][name] - sides[1][name]) / (2 * h), rtol=1e-5, atol=1e-8)


def parameters(seed: int = 0) -> dict[str, nn.Parameter]:
    return {name: nn.Parameter(value) for name, value in drawn(seed).items()}


RATES = st.floats(1e-3, 1.0)
DECAYS = st.sampled_from([0.0, 0.1])
SGD_OPTIONS = st.fixed_dictionaries(
    {
        "lr": RATES,
        "momentum": st.sampled_from([0.0, 0.5, 0.9]),
        "dampening": st.sampled_from([0.0, 0.3]),
        "weight_decay": DECAYS,
        "nesterov": st.booleans(),
        "maximize": st.booleans(),
    }
).filter(lambda o: not o["nesterov"] or (o["momentum"] > 0 and o["dampening"] == 0))
ADAM_OPTIONS = st.fixed_dictionaries(
    {
        "lr": RATES,
        "betas": st.sampled_from([(0.9, 0.999), (0.5, 0.9), (0.0, 0.5)]),
        "eps": st.sampled_from([1e-8, 1e-2]),
        "weight_decay": DECAYS,
        "amsgrad": st.booleans(),
        "maximize": st.booleans(),
    }
)


@given(options=SGD_OPTIONS, steps=st.integers(0, 2), seed=st.integers(0, 50))
@settings(deadline=None, max_examples=30)
def test_sgd(options: dict[str, Any], steps: int, seed: int) -> None:
    weights = parameters()
    optimizer = torch.optim.SGD(weights.values(), **options)
    warm_up(optimizer, steps)
    assert_looks_ahead(optimizer, weights, seed)


@given(kind=st.sampled_from([torch.optim.Adam, torch.optim.AdamW]), options=ADAM_OPTIONS, steps=st.integers(0, 3))
@settings(deadline=None, max_examples=30)
def test_adam_and_adamw(kind: type[Optimizer], options: dict[str, Any], steps: int) -> None:
    weights = parameters()
    optimizer = kind(weights.values(), **options)  # type: ignore[call-arg]
    warm_up(optimizer, steps)
    assert_looks_ahead(optimizer, weights)


def test_amsgrad_whose_largest_second_moment_is_past() -> None:
    # after a large gradient the maximum does not move with g, and the denominator is constant
    weights = parameters()
    optimizer = torch.optim.Adam(weights.values(), 0.1, betas=(0.9, 0.9), amsgrad=True)
    for parameter in weights.values():
        parameter.grad = torch.full_like(parameter, 100.0)
    optimizer.step()
    assert_looks_ahead(optimizer, weights)


def test_adam_with_decoupled_weight_decay() -> None:
    if "decoupled_weight_decay" not in torch.optim.Adam([nn.Parameter(torch.zeros(1))]).defaults:
        pytest.skip("this torch has AdamW only")
    weights = parameters()
    optimizer = torch.optim.Adam(weights.values(), 0.1, weight_decay=0.3, decoupled_weight_decay=True)
    warm_up(optimizer)
    assert_looks_ahead(optimizer, weights)


def test_a_gradient_of_zero_before_the_first_adam_step() -> None:
    # U(0) = 0, dU/dg = lr/eps: the slope of g/(|g| + eps)
    weight = nn.Parameter(vector(1.0))
    optimizer = torch.optim.Adam([weight], 0.1, eps=0.5)
    ahead = look_ahead(optimizer, {"w": weight}, {"w": vector(0.0)})
    assert ahead.weights["w"].item() == 1.0
    assert float(ahead.slopes["w"]) == pytest.approx(0.2, rel=1e-12)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_every_group_has_its_own_options(kind: type[Optimizer]) -> None:
    weights = parameters()
    first, second = weights.values()
    groups = [{"params": [first], "lr": 0.5}, {"params": [second], "weight_decay": 0.3}]
    optimizer = kind(groups, lr=0.01)  # type: ignore[call-arg]
    warm_up(optimizer)
    assert_looks_ahead(optimizer, weights)


def test_a_learning_rate_may_be_a_tensor() -> None:
    weights = parameters()
    optimizer = torch.optim.SGD(weights.values(), torch.tensor(0.1, dtype=torch.float64), momentum=0.9)
    warm_up(optimizer)
    assert_looks_ahead(optimizer, weights)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_adams_learning_rate_may_be_a_tensor(kind: type[Optimizer]) -> None:
    weights = parameters()
    rate = torch.tensor(0.1, dtype=torch.float64)
    optimizer = kind(weights.values(), lr=rate, weight_decay=0.1, foreach=False)  # type: ignore[call-arg]
    warm_up(optimizer)
    assert_looks_ahead(optimizer, weights)


def test_a_learning_rate_that_a_schedule_has_changed_is_the_present_one() -> None:
    weights = parameters()
    optimizer = torch.optim.SGD(weights.values(), 0.1)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    warm_up(optimizer, 1)
    schedule.step()
    assert optimizer.param_groups[0]["lr"] == 0.05
    assert_looks_ahead(optimizer, weights)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_a_weight_without_gradient_stays_though_weight_decay_is_on(kind: type[Optimizer]) -> None:
    weights = parameters()
    optimizer = kind(weights.values(), lr=0.1, weight_decay=0.5)  # type: ignore[call-arg]
    warm_up(optimizer)
    gradients: dict[str, Tensor | None] = {**drawn(1), "1": None}
    ahead = look_ahead(optimizer, weights, gradients)
    theirs = step_of(optimizer, list(weights), gradients)
    assert torch.equal(ahead.weights["1"], weights["1"])
    assert torch.equal(theirs["1"], weights["1"])
    assert ahead.slopes["1"] == 0.0


def test_looking_ahead_changes_neither_optimizer_nor_weights() -> None:
    for kind in (torch.optim.SGD, torch.optim.Adam):
        weights = parameters()
        optimizer = kind(weights.values(), lr=0.1)
        warm_up(optimizer)
        before, state = copy.deepcopy(weights), copy.deepcopy(optimizer.state_dict())
        look_ahead(optimizer, weights, {**drawn(1)})
        assert all(torch.equal(weights[name], before[name]) for name in weights)
        after = optimizer.state_dict()
        assert after["param_groups"] == state["param_groups"]
        for key, entries in state["state"].items():
            for name, value in entries.items():
                assert value is None or torch.equal(torch.as_tensor(after["state"][key][name]), torch.as_tensor(value))


class Mine(torch.optim.SGD):
    """A user's own SGD, whose step nobody knows."""


@pytest.mark.parametrize("kind", [torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.LBFGS, Mine])
def test_another_optimizer_is_a_clear_error_before_anything_runs(kind: type[Optimizer]) -> None:
    supernet = quadratic()
    optimizer = kind(list(supernet.weights.values()), lr=0.1)  # type: ignore[call-arg]
    alphas = torch.optim.Adam(supernet.alphas.values())
    message = f"SGD, Adam, AdamW, but the weights' optimizer is {kind.__name__}.*FirstOrder"
    with pytest.raises(OptionError, match=message):
        Unrolled().check(optimizer)
    with pytest.raises(OptionError, match=message):
        ag.search_step(
            supernet,
            (vector(1.0, 1.0), vector(0.0, 0.0)),
            (vector(1.0, 0.0), vector(0.0, 0.0)),
            step=Unrolled(),
            weights_optimizer=optimizer,
            alphas_optimizer=alphas,
        )
    assert supernet.network.seen == []
    FirstOrder().check(optimizer)
    gradient(FirstOrder(), supernet, optimizer)


@pytest.mark.parametrize(
    "options", [{"hvp": "both"}, {"finite_difference_radius": 0.0}, {"finite_difference_radius": -1}]
)
def test_options_of_the_unrolled_step_are_checked(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(OptionError, match=f"{name} must be .* but got {name}="):
        Unrolled(**options)


def test_a_supernets_weights_are_found_by_identity_whatever_the_order_of_the_groups() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Parameter(vector(1.0))
            self.b = nn.Parameter(vector(2.0))
            self.c = ag.LayerChoice([nn.Identity()], label="c")

    supernet = relaxed(Two())
    optimizer = torch.optim.SGD([supernet.weights["b"], supernet.weights["a"]], 0.5)
    ahead = look_ahead(optimizer, supernet.weights, {"a": vector(1.0), "b": vector(10.0)})
    assert ahead.weights["a"].item() == 0.5
    assert ahead.weights["b"].item() == -3.0
