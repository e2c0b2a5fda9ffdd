"""One whole step: alphas, then weights, each by its own optimizer, with what is reported."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from bilevel_problems import TRAIN, VALID, A, B, P, W, half_square, quadratic, table_batch, tabular, through_softmax
from torch import Tensor, nn
from torch.optim import SGD, Adam

import archgrad as ag
from archgrad.bilevel import FirstOrder, Unrolled
from archgrad.errors import ArchgradError, NonFiniteError, OptionError
from toys import TabularSpace, relaxed, vector

G = W - A @ P
"""The training gradient of the quadratic problem at the start."""
DIRECT = (vector(1.0, 2.0), B)
"""A validation batch whose loss |w - 2 A p - b|^2 / 2 depends on the alphas directly."""


def take(supernet: ag.Supernet, **options: Any) -> ag.StepReport:
    """One first-order step on the quadratic problem, plain SGD at rate 0.1 on both sides unless told otherwise."""
    options.setdefault("step", FirstOrder())
    options.setdefault("weights_optimizer", SGD(supernet.weights.values(), 0.1))
    options.setdefault("alphas_optimizer", SGD(supernet.alphas.values(), 0.1))
    options.setdefault("loss", half_square)
    return ag.search_step(supernet, options.pop("train", TRAIN), options.pop("valid", DIRECT), **options)


def mixture(alpha: Tensor) -> Tensor:
    return torch.softmax(alpha, 0)


def test_alphas_move_first_and_the_weights_see_them_moved() -> None:
    # a1 = a0 - 0.1 dL_valid(w0, a0)/da; w1 = w0 - 0.1 (w0 - A p(a1))
    supernet = quadratic()
    a0 = supernet.alphas["a"].detach().clone()
    take(supernet)
    a1 = a0 - 0.1 * through_softmax(-2.0 * A.T @ (W - 2.0 * A @ P - B))
    assert torch.allclose(supernet.alphas["a"], a1, rtol=1e-12)
    assert torch.allclose(supernet.weights["w"], W - 0.1 * (W - A @ mixture(a1)), rtol=1e-12)


def test_weights_first_moves_the_weights_first() -> None:
    # w1 = w0 - 0.1 (w0 - A p(a0)); a1 = a0 - 0.1 dL_valid(w1, a0)/da
    supernet = quadratic()
    a0 = supernet.alphas["a"].detach().clone()
    report = take(supernet, weights_first=True)
    w1 = W - 0.1 * G
    assert torch.allclose(supernet.weights["w"], w1, rtol=1e-12)
    assert torch.allclose(
        supernet.alphas["a"], a0 - 0.1 * through_softmax(-2.0 * A.T @ (w1 - 2.0 * A @ P - B)), rtol=1e-12
    )
    assert report.valid_loss == pytest.approx(half_square(w1 - 2.0 * A @ P, B).item(), rel=1e-12)


def test_the_report_names_what_the_step_saw() -> None:
    # losses before their updates, norms before clipping and weight decay, outputs of the two passes without graph
    supernet = quadratic()
    report = take(
        supernet,
        grad_clip=1e-3,
        alphas_optimizer=Adam(supernet.alphas.values(), 0.1, weight_decay=5.0),
        weights_optimizer=SGD(supernet.weights.values(), 0.1, weight_decay=5.0),
    )
    after = mixture(supernet.alphas["a"].detach())
    by_alphas = through_softmax(-2.0 * A.T @ (W - 2.0 * A @ P - B))
    assert report.valid_loss == pytest.approx(half_square(W - 2.0 * A @ P, B).item(), rel=1e-12)
    assert report.train_loss == pytest.approx(half_square(W - A @ after, TRAIN[1]).item(), rel=1e-12)
    assert report.alphas_gradient_norm == pytest.approx(by_alphas.norm().item(), rel=1e-12)
    assert report.weights_gradient_norm == pytest.approx((W - A @ after).norm().item(), rel=1e-12)
    assert torch.allclose(report.valid_outputs, W - 2.0 * A @ P)
    assert torch.allclose(report.train_outputs, W - A @ after)
    assert not report.valid_outputs.requires_grad
    assert not report.train_outputs.requires_grad
    assert all(isinstance(v, float) for v in (report.train_loss, report.valid_loss, report.weights_gradient_norm))


def far_off() -> tuple[ag.Supernet, Tensor]:
    """A quadratic problem whose training gradient has the norm 13 (of 5, 12) whatever the alphas."""
    supernet = quadratic()
    batch_zero = vector(1.0, 0.0)  # train input (1, 0): L = |w - t|^2 / 2, g = w - t
    targets = W - vector(5.0, 12.0)
    return supernet, torch.stack([batch_zero, targets])


@pytest.mark.parametrize("clip", [5.0, 1.0])
def test_a_gradient_longer_than_the_clip_is_scaled_to_it(clip: float) -> None:
    # ||g|| = 13; the step is clip g / 13 (torch divides by the norm plus 1e-6)
    supernet, train = far_off()
    report = take(supernet, train=tuple(train), grad_clip=clip)
    assert report.weights_gradient_norm == pytest.approx(13.0, rel=1e-12)
    assert torch.allclose(supernet.weights["w"], W - 0.1 * vector(5.0, 12.0) * clip / 13.0, rtol=1e-6)


def test_the_default_clip_is_five() -> None:
    supernet, train = far_off()
    take(supernet, train=tuple(train))
    assert (supernet.weights["w"] - W).norm().item() == pytest.approx(0.1 * 5.0, rel=1e-6)


@pytest.mark.parametrize("clip", [0.0, 13.5])
def test_a_clip_of_zero_or_beyond_the_norm_changes_nothing(clip: float) -> None:
    supernet, train = far_off()
    take(supernet, train=tuple(train), grad_clip=clip)
    assert torch.allclose(supernet.weights["w"], W - 0.1 * vector(5.0, 12.0), rtol=1e-12)


def test_alphas_are_never_clipped() -> None:
    # the alphas' gradient grows with the validation loss; at a clip of 1e-3 their step is what it is without
    moved = []
    for clip in (0.0, 1e-3):
        supernet = quadratic()
        report = take(supernet, valid=(vector(1.0, 100.0), B), grad_clip=clip)
        assert report.alphas_gradient_norm > 1.0
        moved.append(supernet.alphas["a"].detach().clone())
    assert torch.equal(moved[0], moved[1])


@pytest.mark.parametrize("clip", [-1.0, float("nan")])
def test_a_negative_clip_is_an_error(clip: float) -> None:
    with pytest.raises(OptionError, match="grad_clip must be at least 0"):
        take(quadratic(), grad_clip=clip)


def test_the_look_ahead_is_not_clipped_but_the_weights_step_is() -> None:
    # hypergradient with w' = w - lr g for the unclipped g; valid input (1, 2) at clip 1e-3
    supernet = quadratic()
    report = take(supernet, step=Unrolled(hvp="exact"), grad_clip=1e-3)
    r = W - 0.1 * G - 2.0 * A @ P - B
    assert report.alphas_gradient_norm == pytest.approx(through_softmax(-1.9 * A.T @ r).norm().item(), rel=1e-8)
    assert (supernet.weights["w"] - W).norm().item() == pytest.approx(1e-4, rel=1e-2)


def test_adams_moments_over_two_steps_by_hand() -> None:
    # Adam(lr, (0.5, 0.999), weight_decay): d = g + wd a; m = .5 m + .5 d; v = .999 v + .001 d^2;
    # a -= lr (m / (1 - .5^t)) / (sqrt(v / (1 - .999^t)) + eps). With beta1 = 0.9 the second step would differ.
    supernet = quadratic()
    weights = SGD(supernet.weights.values(), 0.1)
    alphas = Adam(supernet.alphas.values(), 3e-4, betas=(0.5, 0.999), weight_decay=1e-3)
    w, a = W.clone(), vector(0.1, -0.4, 0.8)
    m = v = torch.zeros(3, dtype=torch.float64)
    for t in (1, 2):
        take(supernet, weights_optimizer=weights, alphas_optimizer=alphas)
        p = mixture(a)
        by_p = -2.0 * A.T @ (w - 2.0 * A @ p - B)
        d = p * (by_p - (p * by_p).sum()) + 1e-3 * a
        m, v = 0.5 * m + 0.5 * d, 0.999 * v + 0.001 * d * d
        a = a - 3e-4 * (m / (1 - 0.5**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
        w = w - 0.1 * (w - A @ mixture(a))
        assert torch.allclose(supernet.alphas["a"], a, rtol=1e-12)
        assert torch.allclose(supernet.weights["w"], w, rtol=1e-12)


def test_momentum_over_two_steps_by_hand() -> None:
    # m = mu m + g + wd w; w -= lr m
    supernet = quadratic()
    weights = SGD(supernet.weights.values(), 0.1, momentum=0.9, weight_decay=0.2)
    still = SGD(supernet.alphas.values(), 0.0)
    w, m = W.clone(), torch.zeros(2, dtype=torch.float64)
    for _ in range(2):
        take(supernet, weights_optimizer=weights, alphas_optimizer=still, grad_clip=0.0)
        m = 0.9 * m + (w - A @ P) + 0.2 * w
        w = w - 0.1 * m
    assert torch.allclose(supernet.weights["w"], w, rtol=1e-12)


@pytest.mark.parametrize("step", [FirstOrder(), Unrolled(), Unrolled(hvp="exact")])
def test_no_gradient_is_left_behind(step: ag.bilevel.BilevelStep) -> None:
    supernet = quadratic()
    take(supernet, step=step)
    assert all(p.grad is None for p in supernet.parameters())


def test_gradients_that_were_there_before_do_not_count() -> None:
    moved = []
    for stale in (False, True):
        supernet = quadratic()
        if stale:
            for parameter in supernet.parameters():
                parameter.grad = torch.full_like(parameter, 1e3)
        take(supernet)
        moved.append(copy.deepcopy(supernet.state_dict()))
    assert all(torch.equal(value, moved[1][name]) for name, value in moved[0].items())


@pytest.mark.parametrize("which", ["weights", "alphas"])
def test_an_optimizer_over_the_spaces_own_parameters_is_an_error(which: str) -> None:
    # the supernet works on a copy: such an optimizer would train nothing
    space = TabularSpace().double()
    supernet = ag.Supernet(space)
    optimizers = {"weights": SGD(supernet.weights.values(), 0.1), "alphas": SGD(supernet.alphas.values(), 0.1)}
    optimizers[which] = SGD(space.parameters(), 0.1)
    with pytest.raises(
        OptionError, match=rf"{which}_optimizer holds none of the supernet's {which}.*supernet\.{which}"
    ):
        ag.search_step(
            supernet,
            table_batch(0),
            table_batch(1),
            step=FirstOrder(),
            weights_optimizer=optimizers["weights"],
            alphas_optimizer=optimizers["alphas"],
        )


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("which", ["train", "valid"])
def test_a_loss_that_is_not_finite_stops_before_it_reaches_what_it_is_for(which: str, bad: float) -> None:
    supernet = quadratic()
    before = copy.deepcopy(supernet.state_dict())
    batches = {"train": TRAIN, "valid": VALID, which: (vector(1.0, 0.0), vector(bad, 0.0))}
    with pytest.raises(NonFiniteError, match=r"loss is (nan|inf)") as caught:
        take(supernet, **batches)
    assert isinstance(caught.value, ArchgradError)
    assert torch.equal(supernet.weights["w"], before["network.w"])
    if which == "valid":
        assert torch.equal(supernet.alphas["a"], before["alphas.a"])


@pytest.mark.parametrize("step", [FirstOrder(), Unrolled(), Unrolled(hvp="exact")])
def test_the_default_loss_is_the_cross_entropy(step: ag.bilevel.BilevelStep) -> None:
    reports = []
    for options in ({}, {"loss": F.cross_entropy}):
        supernet = tabular()
        reports.append(
            ag.search_step(
                supernet,
                table_batch(0),
                table_batch(1),
                step=step,
                weights_optimizer=SGD(supernet.weights.values(), 0.1),
                alphas_optimizer=Adam(supernet.alphas.values()),
                **options,
            )
        )
    assert reports[0].train_loss == reports[1].train_loss
    assert reports[0].valid_loss == reports[1].valid_loss


class TwoOutputs(nn.Module):
    """Takes a dict and returns one, as models of other fields do."""

    def __init__(self) -> None:
        super().__init__()
        self.choice = ag.LayerChoice([nn.Linear(4, 3), nn.Linear(4, 3, bias=False)], label="c")

    def forward(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        y = self.choice(x["table"])
        return {"logits": y, "norm": y.square().mean()}


@pytest.mark.parametrize("step", [FirstOrder(), Unrolled(), Unrolled(hvp="exact")])
def test_inputs_and_outputs_may_be_structures(step: ag.bilevel.BilevelStep) -> None:
    supernet = relaxed(TwoOutputs()).train()
    x, y = table_batch(0)
    report = ag.search_step(
        supernet,
        ({"table": x}, y),
        ({"table": x}, y),
        step=step,
        weights_optimizer=SGD(supernet.weights.values(), 0.1),
        alphas_optimizer=Adam(supernet.alphas.values()),
        loss=lambda outputs, targets: F.cross_entropy(outputs["logits"], targets) + outputs["norm"],
    )
    assert report.train_outputs["logits"].shape == (6, 3)
    assert not report.valid_outputs["logits"].requires_grad


@pytest.mark.parametrize("step", [FirstOrder(), Unrolled(), Unrolled(hvp="exact")])
def test_steps_lower_both_losses(step: ag.bilevel.BilevelStep) -> None:
    supernet = tabular()
    weights = SGD(supernet.weights.values(), 0.2, momentum=0.9)
    alphas = Adam(supernet.alphas.values(), 0.05, betas=(0.5, 0.999))
    reports = [
        ag.search_step(
            supernet, table_batch(0), table_batch(0), step=step, weights_optimizer=weights, alphas_optimizer=alphas
        )
        for _ in range(30)
    ]
    assert reports[-1].train_loss < 0.5 * reports[0].train_loss
    assert reports[-1].valid_loss < 0.5 * reports[0].valid_loss


@pytest.mark.parametrize("step", [FirstOrder(), Unrolled()], ids=["first-order", "unrolled"])
def test_under_autocast_no_pass_sees_weights_as_they_were_before_a_step(step: ag.bilevel.BilevelStep) -> None:
    torch.manual_seed(0)
    space = nn.Sequential(
        nn.Linear(4, 8), ag.LayerChoice([nn.Linear(8, 8), nn.Tanh()], label="c"), nn.Tanh(), nn.Linear(8, 3)
    )
    batch = (torch.randn(16, 4), torch.randint(0, 3, (16,)))
    states = []
    for caches in (True, False):
        supernet = ag.Supernet(space)
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=caches):
            take_one = {
                "step": step,
                "weights_optimizer": SGD(supernet.weights.values(), lr=0.5, momentum=0.9),
                "alphas_optimizer": Adam(supernet.alphas.values(), lr=0.1),
            }
            for _ in range(2):
                ag.search_step(supernet, batch, batch, weights_first=True, **take_one)
        states.append(supernet.state_dict())
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name
