"""The unrolled gradient on smooth networks, against the derivative of what the optimizer really does."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from bilevel_problems import (
    by_central_differences,
    gradient,
    relative_error,
    table_batch,
    tabular,
    two_groups,
    warm_up,
)
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

import archgrad as ag
from archgrad.bilevel import FirstOrder, Implicit, Unrolled
from archgrad.relaxation import Gumbel
from toys import relaxed

OPTIMIZERS: dict[str, Callable[[ag.Supernet], Optimizer]] = {
    "sgd": lambda s: SGD(s.weights.values(), 0.3),
    "sgd, momentum and decay": lambda s: SGD(s.weights.values(), 0.3, momentum=0.9, weight_decay=0.05),
    "sgd, nesterov": lambda s: SGD(s.weights.values(), 0.3, momentum=0.9, nesterov=True),
    "sgd, dampening": lambda s: SGD(s.weights.values(), 0.3, momentum=0.9, dampening=0.4),
    "sgd, two groups": lambda s: SGD(two_groups(s), lr=0.1, momentum=0.5),
    "adam": lambda s: Adam(s.weights.values(), 0.05, weight_decay=0.05),
    "adamw, amsgrad": lambda s: AdamW(s.weights.values(), 0.05, betas=(0.5, 0.9), amsgrad=True, weight_decay=0.1),
    "adam, two groups": lambda s: Adam(two_groups(s), lr=0.02),
}
TRAIN, VALID = table_batch(0), table_batch(1)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_exact_gradient_is_the_derivative_of_the_validation_loss_after_the_step(name: str) -> None:
    supernet = tabular()
    optimizer = OPTIMIZERS[name](supernet)
    warm_up(optimizer)
    exact = gradient(Unrolled(hvp="exact"), supernet, optimizer, TRAIN, VALID, F.cross_entropy)
    expected = by_central_differences(supernet, optimizer, TRAIN, VALID)
    assert relative_error(exact, expected) < 1e-6
    first = gradient(FirstOrder(), supernet, optimizer, TRAIN, VALID, F.cross_entropy)
    assert relative_error(first, expected) > 1e-3  # the implicit term is there to be seen


@pytest.mark.parametrize("name", ["sgd", "sgd, momentum and decay", "sgd, two groups", "adam"])
def test_the_error_of_the_finite_difference_falls_with_the_square_of_its_radius(name: str) -> None:
    # central difference: error ~ r^2, so a radius ten times smaller has an error a hundred times smaller
    supernet = tabular()
    optimizer = OPTIMIZERS[name](supernet)
    warm_up(optimizer)
    exact = gradient(Unrolled(hvp="exact"), supernet, optimizer, TRAIN, VALID, F.cross_entropy)
    errors = [
        relative_error(
            gradient(Unrolled(finite_difference_radius=r), supernet, optimizer, TRAIN, VALID, F.cross_entropy), exact
        )
        for r in (1e-1, 1e-2, 1e-3)
    ]
    for larger, smaller in itertools.pairwise(errors):
        assert larger / smaller == pytest.approx(100.0, rel=0.05)


def test_the_default_radius_agrees_with_the_exact_gradient_in_float32_too() -> None:
    supernet = tabular().float()
    optimizer = SGD(supernet.weights.values(), 0.3, momentum=0.9)
    batches = [(x.float(), y) for x, y in (TRAIN, VALID)]
    found, exact = (
        gradient(step, supernet, optimizer, *batches, F.cross_entropy) for step in (Unrolled(), Unrolled(hvp="exact"))
    )
    assert relative_error(found, exact) < 1e-3


@pytest.mark.parametrize("seed", range(4))
def test_the_gumbel_relaxation_keeps_its_draw_through_all_passes(seed: int) -> None:
    # were a mask drawn anew, the finite difference would compare two different networks
    found = []
    for step in (Unrolled(hvp="finite-difference", finite_difference_radius=1e-3), Unrolled(hvp="exact")):
        supernet = tabular(Gumbel(), seed=seed)
        supernet.generator.manual_seed(seed)
        found.append(gradient(step, supernet, SGD(supernet.weights.values(), 0.3), TRAIN, VALID, F.cross_entropy))
    assert relative_error(found[0], found[1]) < 1e-4


class OneOfTwo(nn.Module):
    """Uses one head or the other, as the input says, so that each pass leaves a head unused."""

    def __init__(self) -> None:
        super().__init__()
        self.body = ag.LayerChoice([nn.Linear(4, 4), nn.Tanh()], label="body")
        self.never_used = nn.Linear(4, 4)
        self.heads = nn.ModuleList([nn.Linear(4, 3), nn.Linear(4, 3)])
        self.choice = ag.LayerChoice([nn.Tanh(), nn.Softplus()], label="only second")

    def forward(self, x: Tensor) -> Tensor:
        which = int(x[0, 0] > 0)
        y = torch.tanh(self.body(x))
        return self.heads[which](self.choice(y) if which else y)


@pytest.mark.parametrize("step", [FirstOrder(), Unrolled(finite_difference_radius=1e-3), Unrolled(hvp="exact")])
@pytest.mark.parametrize("optimizer", [SGD, Adam])
def test_parameters_and_alphas_that_a_pass_does_not_use_are_fine(
    step: ag.bilevel.BilevelStep, optimizer: type[Optimizer]
) -> None:
    torch.manual_seed(0)
    supernet = relaxed(OneOfTwo(), {"body": [0.4, -0.2], "only second": [0.1, 0.5]}).train()
    weights = optimizer(supernet.weights.values(), lr=0.1)  # type: ignore[call-arg]
    x, y = table_batch(2)
    for train_sign, valid_sign in itertools.product((1.0, -1.0), repeat=2):
        train, valid = ((x * (sign * x[0, 0].sign()), y) for sign in (train_sign, valid_sign))
        found = gradient(step, supernet, weights, train, valid, F.cross_entropy)
        if isinstance(step, Unrolled):
            expected = by_central_differences(supernet, weights, train, valid)
            assert relative_error(found, expected) < 1e-4
        alphas = torch.optim.Adam(supernet.alphas.values())
        report = ag.search_step(supernet, train, valid, step=step, weights_optimizer=weights, alphas_optimizer=alphas)
        assert report.weights_gradient_norm > 0


def test_a_row_of_alphas_without_gradient_does_not_move() -> None:
    # not even by weight decay: no gradient is no step
    supernet = relaxed(OneOfTwo()).train()
    before = supernet.alphas["only second"].detach().clone()
    x, y = table_batch(2)
    batch = (x * -x[0, 0].sign(), y)
    ag.search_step(
        supernet,
        batch,
        batch,
        step=Unrolled(),
        weights_optimizer=SGD(supernet.weights.values(), 0.1),
        alphas_optimizer=torch.optim.Adam(supernet.alphas.values(), 0.1, weight_decay=1.0),
    )
    assert torch.equal(supernet.alphas["only second"], before)


class TiedAndFrozen(nn.Module):
    """A weight in two places, and a frozen one between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.choice = ag.LayerChoice([nn.Tanh(), nn.Softplus()], label="choice")
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.choice(self.frozen(torch.tanh(self.first(x))))))


@pytest.mark.parametrize("hvp", ["finite-difference", "exact"])
def test_tied_weights_move_together_and_frozen_ones_do_not(hvp: str) -> None:
    torch.manual_seed(0)
    supernet = relaxed(TiedAndFrozen(), {"choice": [0.3, -0.5]}).train()
    optimizer = SGD(supernet.weights.values(), 0.3, momentum=0.9)
    warm_up(optimizer)
    step = Unrolled(hvp=hvp, finite_difference_radius=1e-3)  # type: ignore[arg-type]
    found = gradient(step, supernet, optimizer, TRAIN, VALID, F.cross_entropy)
    assert relative_error(found, by_central_differences(supernet, optimizer, TRAIN, VALID)) < 1e-5


def test_the_paper_space_and_the_exact_gradient_in_the_fast_and_the_plain_way() -> None:
    torch.manual_seed(0)
    space = ag.spaces.nasbench201(4, 1).double()
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    batch = (x, torch.tensor([0, 1, 2, 3]))
    found = []
    for fast in (True, False):
        supernet = ag.Supernet(space, fast=fast).train()
        optimizer = SGD(supernet.weights.values(), 0.1, momentum=0.9)
        found.append(gradient(Unrolled(hvp="exact"), supernet, optimizer, batch, batch, F.cross_entropy))
    assert relative_error(found[0], found[1]) < 1e-8


class Attending(nn.Module):
    """Attention of a short sequence to itself, by torch's fused kernels where it may."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.attention.in_proj_weight, std=0.5)

    def forward(self, x: Tensor) -> Tensor:
        attended, _ = self.attention(x, x, x, need_weights=False)
        return attended


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_exact_gradient_goes_through_attention(accumulation: int) -> None:
    torch.manual_seed(0)
    choice = ag.LayerChoice({"attend": Attending(), "keep": nn.Identity()}, label="mixing")
    supernet = relaxed(nn.Sequential(nn.Linear(4, 4), choice, nn.Flatten(), nn.Linear(12, 3)))
    optimizer = SGD(supernet.weights.values(), 0.3)
    sequences = torch.randn(8, 3, 4, dtype=torch.float64)
    train, valid = ((sequences[half], torch.arange(4) % 3) for half in (slice(0, 4), slice(4, 8)))
    exact, rough = (
        step.alphas_gradient(
            supernet, train, valid, loss=F.cross_entropy, weights_optimizer=optimizer, accumulation=accumulation
        ).gradients["mixing"]
        for step in (Unrolled(hvp="exact"), Unrolled(finite_difference_radius=1e-3))
    )
    assert exact is not None
    assert rough is not None
    torch.testing.assert_close(exact, rough, rtol=1e-5, atol=1e-9)


def test_the_implicit_gradient_goes_through_attention() -> None:
    torch.manual_seed(0)
    choice = ag.LayerChoice({"attend": Attending(), "keep": nn.Identity()}, label="mixing")
    supernet = relaxed(nn.Sequential(nn.Linear(4, 4), choice, nn.Flatten(), nn.Linear(12, 3)))
    optimizer = SGD(supernet.weights.values(), 0.1)
    batch = (torch.randn(4, 3, 4, dtype=torch.float64), torch.arange(4) % 3)
    found = Implicit(iterations=3).alphas_gradient(
        supernet, batch, batch, loss=F.cross_entropy, weights_optimizer=optimizer
    )
    mixing = found.gradients["mixing"]
    assert mixing is not None
    assert bool(mixing.isfinite().all())
    assert bool(mixing.any())
