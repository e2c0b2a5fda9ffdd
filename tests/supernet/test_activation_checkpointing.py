"""Computing activations again gives what keeping them gives, for every bilevel step."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import archgrad as ag
from archgrad.bilevel import BilevelStep, FirstOrder, Unrolled
from archgrad.schedules import Progress


def trained(
    step: BilevelStep, *, recompute: bool, relaxation: ag.relaxation.Relaxation, fast: bool = True
) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    space = ag.spaces.darts_cifar(2, 2, 3, nodes=2).double()
    supernet = ag.Supernet(space, relaxation, fast=fast, activation_checkpointing=recompute).train()
    weights = torch.optim.SGD(supernet.weights.values(), 0.1, momentum=0.9, weight_decay=1e-3)
    alphas = torch.optim.Adam(supernet.alphas.values(), 0.01)
    x, y = torch.randn(2, 4, 3, 8, 8, dtype=torch.float64), torch.tensor([[0, 1, 2, 1], [2, 2, 0, 1]])
    for _ in range(2):
        ag.search_step(
            supernet,
            (x[0], y[0]),
            (x[1], y[1]),
            step=step,
            weights_optimizer=weights,
            alphas_optimizer=alphas,
            progress=Progress(0, 2),
        )
    return {name: value.detach().clone() for name, value in supernet.state_dict().items()}


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("step", [FirstOrder(), Unrolled(), Unrolled(hvp="exact")])
def test_two_steps_are_the_same_and_count_each_batch_once(step: BilevelStep, fast: bool) -> None:
    kept = trained(step, recompute=False, relaxation=ag.relaxation.Softmax(), fast=fast)
    again = trained(step, recompute=True, relaxation=ag.relaxation.Softmax(), fast=fast)
    for name, value in kept.items():
        torch.testing.assert_close(again[name], value, rtol=1e-9, atol=1e-11, msg=name)


def test_a_drawn_candidate_is_drawn_once() -> None:
    kept = trained(FirstOrder(), recompute=False, relaxation=ag.relaxation.Gumbel())
    again = trained(FirstOrder(), recompute=True, relaxation=ag.relaxation.Gumbel())
    for name, value in kept.items():
        torch.testing.assert_close(again[name], value, rtol=1e-9, atol=1e-11, msg=name)


def test_only_outermost_choices_compute_again() -> None:
    supernet = ag.Supernet(ag.spaces.tiny(), activation_checkpointing=True)
    flags = {entry.label: entry.choice.recomputes for entry in supernet.choices}
    assert flags == {"stem": True, "body": True, "body/kernel": False, "join": True}
    logits = supernet(torch.randn(2, 1, 8, 8))
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, torch.tensor([0, 1])), [supernet.alphas["body"]])
    assert gradient.isfinite().all()
