"""One test for each bug that other second-order implementations had; each fails if the bug is put in."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from bilevel_problems import (
    TRAIN,
    VALID,
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
)

import archgrad as ag
from archgrad.bilevel import FirstOrder, Unrolled
from toys import vector

G = W - A @ P
AHEAD = W - 0.1 * G
BOTH = [Unrolled(hvp="finite-difference"), Unrolled(hvp="exact")]


def sgd(supernet: ag.Supernet, **options: float) -> torch.optim.SGD:
    return torch.optim.SGD(supernet.weights.values(), 0.1, **options)


def test_the_difference_is_divided_by_two_epsilon_and_not_multiplied() -> None:
    # (p - n) / 2 * eps scales the implicit term by eps^2 ~ 1e-4: silently first order
    supernet = quadratic()
    found = gradient(Unrolled(), supernet, sgd(supernet))["a"]
    expected = through_softmax(0.1 * A.T @ (AHEAD - B))
    assert torch.allclose(found, expected, rtol=1e-8)
    epsilon = 0.01 / (AHEAD - B).norm()
    assert (found - expected * epsilon**2).norm() > 0.9 * expected.norm()


@pytest.mark.parametrize("step", BOTH)
def test_the_validation_gradient_is_taken_after_the_virtual_step(step: Unrolled) -> None:
    # a loop that rebinds its variable (w = w - lr g) leaves w as it was, and takes v = w - b for w' - b
    supernet = quadratic()
    found = gradient(step, supernet, sgd(supernet))["a"]
    at_w, at_ahead = (through_softmax(0.1 * A.T @ (place - B)) for place in (W, AHEAD))
    assert (at_w - at_ahead).norm() > 0.05 * at_ahead.norm()
    assert torch.allclose(found, at_ahead, rtol=1e-8)
    assert torch.allclose(supernet.network.seen[1], AHEAD, rtol=1e-12)


def test_only_the_weights_are_perturbed_and_never_the_alphas() -> None:
    # parameters() of a supernet includes the alphas; a perturbation of both gives another quantity
    supernet = tabular()
    seen: list[tuple[bytes, ...]] = []

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(row.detach().numpy().tobytes() for row in supernet.alphas.values()))
        return F.cross_entropy(outputs, targets)

    batches = table_batch(0), table_batch(1)
    optimizer = torch.optim.SGD(supernet.parameters(), 0.3)  # the alphas among them, as a user might have it
    found = gradient(Unrolled(finite_difference_radius=1e-3), supernet, optimizer, *batches, loss)
    assert len(seen) == 4
    assert len(set(seen)) == 1
    of_weights = torch.optim.SGD(supernet.weights.values(), 0.3)
    assert relative_error(found, by_central_differences(supernet, of_weights, *batches)) < 1e-5


@pytest.mark.parametrize("step", [FirstOrder(), *BOTH])
def test_gradients_of_parts_of_a_batch_add_up_and_do_not_replace_each_other(step: ag.bilevel.BilevelStep) -> None:
    supernet = tabular()
    optimizer = torch.optim.SGD(supernet.weights.values(), 0.3, momentum=0.9)
    batches = table_batch(0, rows=7), table_batch(1, rows=7)
    whole, parts = (
        step.alphas_gradient(
            supernet, *batches, loss=F.cross_entropy, weights_optimizer=optimizer, accumulation=accumulation
        ).gradients
        for accumulation in (1, 3)
    )
    for label, expected in whole.items():
        assert expected is not None
        assert parts[label] is not None
        assert torch.allclose(parts[label], expected, rtol=1e-7, atol=1e-12)  # type: ignore[arg-type]


def test_two_steps_do_not_add_up_their_gradients() -> None:
    supernet = quadratic()
    still = {"weights_optimizer": sgd(supernet), "alphas_optimizer": torch.optim.SGD(supernet.alphas.values(), 0.0)}
    for group in still["weights_optimizer"].param_groups:
        group["lr"] = 0.0
    norms = [
        ag.search_step(supernet, TRAIN, (vector(1.0, 2.0), B), step=FirstOrder(), loss=half_square, **still)
        for _ in range(2)
    ]
    assert norms[0].alphas_gradient_norm == norms[1].alphas_gradient_norm
    assert norms[0].weights_gradient_norm == norms[1].weights_gradient_norm


@pytest.mark.parametrize("step", BOTH)
@pytest.mark.parametrize(("momentum", "decay"), [(0.9, 0.0), (0.0, 0.2), (0.9, 0.2)])
def test_momentum_and_weight_decay_are_part_of_the_virtual_step(step: Unrolled, momentum: float, decay: float) -> None:
    supernet = quadratic()
    optimizer = sgd(supernet, momentum=momentum, weight_decay=decay)
    m = vector(3.0, -2.0)
    optimizer.state[supernet.weights["w"]]["momentum_buffer"] = m.clone()
    ahead = W - 0.1 * (momentum * m + G + decay * W)
    assert (ahead - AHEAD).norm() > 0.01
    expected = through_softmax(0.1 * A.T @ (ahead - B))
    assert torch.allclose(gradient(step, supernet, optimizer)["a"], expected, rtol=1e-8)


def test_an_error_about_momentum_is_not_taken_for_no_momentum() -> None:
    # `except: momentum = 0` hides any mistake; a broken state must be an error
    supernet = quadratic()
    optimizer = sgd(supernet, momentum=0.9)
    optimizer.state[supernet.weights["w"]]["momentum_buffer"] = vector(1.0, 2.0, 3.0)
    with pytest.raises(RuntimeError, match="size"):
        gradient(Unrolled(), supernet, optimizer)


def test_the_difference_is_taken_around_the_weights_themselves_and_not_the_unrolled_ones() -> None:
    # passes at w, w', w + e u, w - e u; the middle of the last two is w, and their distance 2 * 0.01
    supernet = quadratic()
    gradient(Unrolled(), supernet, sgd(supernet))
    at, ahead, plus, minus = supernet.network.seen
    assert torch.equal(at, W)
    assert torch.allclose(ahead, AHEAD, rtol=1e-12)
    assert torch.allclose((plus + minus) / 2, W, rtol=1e-12)
    assert (plus - minus).norm().item() == pytest.approx(0.02, rel=1e-9)
    assert torch.allclose((plus - minus) / 0.02, (AHEAD - B) / (AHEAD - B).norm(), rtol=1e-9)


def test_the_radius_is_divided_by_the_norm_over_all_weights_together() -> None:
    # one epsilon for all weights, 0.01 / ||u||, and not one for each of them
    supernet = tabular()
    optimizer = torch.optim.SGD(supernet.weights.values(), 0.3)
    places: list[torch.Tensor] = []
    handle = supernet.network.register_forward_pre_hook(
        lambda module, _: places.append(torch.cat([p.detach().flatten() for p in module.parameters()]))
    )
    gradient(Unrolled(), supernet, optimizer, table_batch(0), table_batch(1), F.cross_entropy)
    handle.remove()
    at, _, plus, minus = places
    assert (plus - at).norm().item() == pytest.approx(0.01, rel=1e-9)
    assert (minus - at).norm().item() == pytest.approx(0.01, rel=1e-9)


def test_the_same_training_batch_serves_all_training_passes() -> None:
    supernet = tabular()
    batches: list[torch.Tensor] = []
    handle = supernet.register_forward_pre_hook(lambda _, inputs: batches.append(inputs[0]))
    train, valid = table_batch(0), table_batch(1)
    gradient(Unrolled(), supernet, torch.optim.SGD(supernet.weights.values(), 0.3), train, valid, F.cross_entropy)
    handle.remove()
    assert [batch is train[0] for batch in batches] == [True, False, True, True]
    assert batches[1] is valid[0]


@pytest.mark.parametrize("step", BOTH)
def test_weights_come_back_bit_for_bit_and_do_not_drift_by_adding_and_subtracting(step: Unrolled) -> None:
    supernet = tabular().float()
    before = {name: weight.detach().clone() for name, weight in supernet.weights.items()}
    train, valid = ((x.float(), y) for x, y in (table_batch(0), table_batch(1)))
    for _ in range(5):
        gradient(step, supernet, torch.optim.SGD(supernet.weights.values(), 0.3), train, valid, F.cross_entropy)
    assert all(torch.equal(weight, before[name]) for name, weight in supernet.weights.items())


@pytest.mark.parametrize("step", BOTH)
def test_the_second_order_is_not_silently_off(step: Unrolled) -> None:
    # on the quadratic problem the first order is exactly zero
    supernet = quadratic()
    assert gradient(step, supernet, sgd(supernet), TRAIN, VALID)["a"].norm() > 1e-2
