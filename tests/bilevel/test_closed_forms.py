"""The hypergradients on a quadratic problem, against algebra.

L_train = |w - A p|^2 / 2 and L_valid = |w - b|^2 / 2 with p = softmax(a): the training gradient is g = w - A p,
w' = w - U(g), and dL_valid(w')/dp = (dw'/dp)' (w' - b), where dg/dp = -A.
"""

from __future__ import annotations

import pytest
import torch
from bilevel_problems import TRAIN, VALID, A, B, Batch, P, W, gradient, quadratic, through_softmax

import archgrad as ag
from archgrad.bilevel import FirstOrder, Unrolled
from toys import vector

BOTH = [Unrolled(hvp="finite-difference"), Unrolled(hvp="exact")]
G = W - A @ P


def test_the_first_order_gradient_is_the_direct_one_only() -> None:
    # L_valid does not depend on the alphas at fixed weights
    supernet = quadratic()
    optimizer = torch.optim.SGD(supernet.weights.values(), 0.1)
    assert torch.equal(gradient(FirstOrder(), supernet, optimizer)["a"], vector(0.0, 0.0, 0.0))


def test_the_first_order_gradient_of_a_direct_dependence() -> None:
    # valid input (1, 2): L = |w - 2 A p - b|^2 / 2, dL/dp = -2 A' (w - 2 A p - b)
    supernet = quadratic()
    optimizer = torch.optim.SGD(supernet.weights.values(), 0.1)
    found = gradient(FirstOrder(), supernet, optimizer, valid=(vector(1.0, 2.0), B))
    assert torch.allclose(found["a"], through_softmax(-2.0 * A.T @ (W - 2.0 * A @ P - B)), rtol=1e-12)


@pytest.mark.parametrize("step", BOTH)
def test_unrolled_plain_sgd(step: Unrolled) -> None:
    # w' = w - lr g; dw'/dp = lr A
    supernet = quadratic()
    optimizer = torch.optim.SGD(supernet.weights.values(), 0.1)
    ahead = W - 0.1 * G
    assert torch.allclose(gradient(step, supernet, optimizer)["a"], through_softmax(0.1 * A.T @ (ahead - B)), rtol=1e-8)


@pytest.mark.parametrize("step", BOTH)
def test_unrolled_with_momentum_and_weight_decay(step: Unrolled) -> None:
    # w' = w - lr (mu m + g + wd w); dw'/dp = lr A
    supernet = quadratic()
    optimizer = torch.optim.SGD(supernet.weights.values(), 0.1, momentum=0.9, weight_decay=0.2)
    m = vector(0.7, -1.3)
    optimizer.state[supernet.weights["w"]]["momentum_buffer"] = m.clone()
    ahead = W - 0.1 * (0.9 * m + G + 0.2 * W)
    assert torch.allclose(gradient(step, supernet, optimizer)["a"], through_softmax(0.1 * A.T @ (ahead - B)), rtol=1e-8)


@pytest.mark.parametrize("step", BOTH)
def test_unrolled_with_momentum_before_the_first_step(step: Unrolled) -> None:
    # no buffer yet counts as zero
    supernet = quadratic()
    optimizer = torch.optim.SGD(supernet.weights.values(), 0.1, momentum=0.9, dampening=0.5)
    ahead = W - 0.1 * G
    assert torch.allclose(gradient(step, supernet, optimizer)["a"], through_softmax(0.1 * A.T @ (ahead - B)), rtol=1e-8)


@pytest.mark.parametrize("step", BOTH)
def test_unrolled_with_nesterov_momentum(step: Unrolled) -> None:
    # m' = mu m + g; w' = w - lr (g + mu m'); dw'/dp = lr (1 + mu) A
    supernet = quadratic()
    optimizer = torch.optim.SGD(supernet.weights.values(), 0.1, momentum=0.9, nesterov=True)
    m = vector(0.7, -1.3)
    optimizer.state[supernet.weights["w"]]["momentum_buffer"] = m.clone()
    ahead = W - 0.1 * (G + 0.9 * (0.9 * m + G))
    expected = through_softmax(0.1 * 1.9 * A.T @ (ahead - B))
    assert torch.allclose(gradient(step, supernet, optimizer)["a"], expected, rtol=1e-8)


@pytest.mark.parametrize("step", BOTH)
def test_unrolled_with_dampening(step: Unrolled) -> None:
    # m' = mu m + (1 - d) g; dw'/dp = lr (1 - d) A
    supernet = quadratic()
    optimizer = torch.optim.SGD(supernet.weights.values(), 0.1, momentum=0.9, dampening=0.25)
    m = vector(0.7, -1.3)
    optimizer.state[supernet.weights["w"]]["momentum_buffer"] = m.clone()
    ahead = W - 0.1 * (0.9 * m + 0.75 * G)
    expected = through_softmax(0.1 * 0.75 * A.T @ (ahead - B))
    assert torch.allclose(gradient(step, supernet, optimizer)["a"], expected, rtol=1e-8)


@pytest.mark.parametrize("step", BOTH)
def test_unrolled_that_climbs(step: Unrolled) -> None:
    # maximize: w' = w + lr g; dw'/dp = -lr A
    supernet = quadratic()
    optimizer = torch.optim.SGD(supernet.weights.values(), 0.1, maximize=True)
    expected = through_softmax(-0.1 * A.T @ (W + 0.1 * G - B))
    assert torch.allclose(gradient(step, supernet, optimizer)["a"], expected, rtol=1e-8)


@pytest.mark.parametrize("step", BOTH)
def test_the_direct_and_the_implicit_term_add_up(step: Unrolled) -> None:
    # valid input (1, 2): r = w' - 2 A p - b; dL/dp = -2 A' r + lr A' r
    supernet = quadratic()
    optimizer = torch.optim.SGD(supernet.weights.values(), 0.1)
    r = W - 0.1 * G - 2.0 * A @ P - B
    found = gradient(step, supernet, optimizer, valid=(vector(1.0, 2.0), B))
    assert torch.allclose(found["a"], through_softmax(-1.9 * A.T @ r), rtol=1e-8)


def test_first_and_second_order_differ() -> None:
    supernet = quadratic()
    optimizer = torch.optim.SGD(supernet.weights.values(), 0.1)
    assert gradient(Unrolled(hvp="exact"), supernet, optimizer)["a"].norm() > 1e-3
    assert gradient(FirstOrder(), supernet, optimizer)["a"].norm() == 0


@pytest.mark.parametrize("step", BOTH)
def test_a_learning_rate_of_zero_is_the_first_order(step: Unrolled) -> None:
    supernet = quadratic()
    optimizer = torch.optim.SGD(supernet.weights.values(), 0.0, momentum=0.9)
    valid = (vector(1.0, 2.0), B)
    first = gradient(FirstOrder(), supernet, optimizer, valid=valid)["a"]
    assert torch.allclose(gradient(step, supernet, optimizer, valid=valid)["a"], first, rtol=1e-12)


@pytest.mark.parametrize("step", BOTH)
def test_a_validation_loss_that_no_weight_moves_has_the_direct_gradient(step: Unrolled) -> None:
    # valid input (0, 1): L = |-A p - b|^2 / 2, v = 0 exactly
    supernet = quadratic()
    optimizer = torch.optim.SGD(supernet.weights.values(), 0.1)
    found = gradient(step, supernet, optimizer, valid=(vector(0.0, 1.0), B))
    assert torch.allclose(found["a"], through_softmax(A.T @ (A @ P + B)), rtol=1e-12)


@pytest.mark.parametrize("step", BOTH)
def test_a_training_loss_that_no_alpha_moves_has_the_direct_gradient(step: Unrolled) -> None:
    # train input (1, 0): g = w does not depend on p, but w' = w - lr w is still where L_valid is taken
    supernet = quadratic()
    optimizer = torch.optim.SGD(supernet.weights.values(), 0.1)
    train: Batch = (vector(1.0, 0.0), TRAIN[1])
    found = gradient(step, supernet, optimizer, train=train, valid=(vector(1.0, 2.0), B))
    assert torch.allclose(found["a"], through_softmax(-2.0 * A.T @ (0.9 * W - 2.0 * A @ P - B)), rtol=1e-12)


@pytest.mark.parametrize("step", BOTH)
def test_the_reported_loss_is_the_one_at_the_look_ahead_weights(step: Unrolled) -> None:
    supernet = quadratic()
    optimizer = torch.optim.SGD(supernet.weights.values(), 0.1)
    found = step.alphas_gradient(
        supernet, TRAIN, VALID, loss=lambda o, t: 0.5 * (o - t).square().sum(), weights_optimizer=optimizer
    )
    ahead = W - 0.1 * G
    assert found.valid_loss.item() == pytest.approx(0.5 * (ahead - B).square().sum().item(), rel=1e-12)
    assert torch.allclose(found.valid_outputs, ahead)
    assert not found.valid_outputs.requires_grad


@pytest.mark.parametrize("radius", [1e-1, 1e-2, 1e-3])
def test_on_a_quadratic_the_finite_difference_has_no_error_whatever_its_radius(radius: float) -> None:
    supernet = quadratic()
    optimizer = torch.optim.SGD(supernet.weights.values(), 0.1)
    found = gradient(Unrolled(finite_difference_radius=radius), supernet, optimizer)["a"]
    assert torch.allclose(found, through_softmax(0.1 * A.T @ (W - 0.1 * G - B)), rtol=1e-8)


def test_weights_that_the_optimizer_does_not_hold_stay_where_they_are() -> None:
    supernet = quadratic()
    other = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = torch.optim.SGD([other], 0.1)
    for step in BOTH:
        found = gradient(step, supernet, optimizer, valid=(vector(1.0, 2.0), B))["a"]
        assert torch.allclose(found, through_softmax(-2.0 * A.T @ (W - 2.0 * A @ P - B)), rtol=1e-12)


@pytest.mark.parametrize("steps", [ag.bilevel.FirstOrder(), *BOTH])
def test_alphas_weights_and_their_gradients_are_left_alone(steps: ag.bilevel.BilevelStep) -> None:
    supernet = quadratic()
    optimizer = torch.optim.SGD(supernet.weights.values(), 0.1, momentum=0.9)
    gradient(steps, supernet, optimizer)
    assert torch.equal(supernet.weights["w"], W)
    assert supernet.weights["w"].grad is None
    assert supernet.alphas["a"].grad is None
    assert supernet.weights["w"].requires_grad
    assert supernet.alphas["a"].requires_grad
    assert not optimizer.state
