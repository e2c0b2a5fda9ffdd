"""What rules make of the weights' gradient, against algebra and against autograd."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import archgrad as ag
from archgrad.bilevel import FirstOrder, Implicit, Unrolled, search_step
from archgrad.errors import OptionError
from archgrad.methods import Method
from archgrad.schedules import Linear, Progress
from archgrad.testing import TabularSpace
from archgrad.weights_rules import Flooding

DATA = (torch.randn(44, 4, generator=torch.Generator().manual_seed(0)), torch.arange(44) % 3)


def supernet_of(space: torch.nn.Module) -> ag.Supernet:
    return ag.Supernet(space, seed=0).double().train()


def tabular() -> ag.Supernet:
    torch.manual_seed(0)
    return supernet_of(TabularSpace())


def batch(start: int = 0, samples: int = 8) -> tuple[Tensor, Tensor]:
    return DATA[0][start : start + samples].double(), DATA[1][start : start + samples]


def stepped(supernet: ag.Supernet, **options: Any) -> ag.StepReport:
    """Take one step of plain gradient descent of rate 1, the weights alone."""
    return search_step(
        supernet,
        batch(),
        batch(8),
        **{
            "step": FirstOrder(),
            "weights_optimizer": torch.optim.SGD(supernet.weights.values(), 1.0),
            "alphas_optimizer": torch.optim.SGD(supernet.alphas.values(), 1.0),
            "grad_clip": 0.0,
            "update_alphas": False,
            "progress": Progress(1, 4),
            **options,
        },
    )


def moves(**options: Any) -> tuple[dict[str, Tensor], ag.StepReport]:
    """Return what one step does to each weight."""
    supernet = tabular()
    before = {name: weight.detach().clone() for name, weight in supernet.weights.items()}
    report = stepped(supernet, **options)
    return {name: weight.detach() - before[name] for name, weight in supernet.weights.items()}, report


def test_flooding_climbs_below_its_level_and_falls_above_it() -> None:
    # d(|L - b| + b)/dw = sign(L - b) dL/dw
    plain, report = moves()
    for level, sign in ((report.train_loss - 0.1, 1.0), (report.train_loss + 0.1, -1.0)):
        flooded, own = moves(weights_rules=(Flooding(level),))
        assert own.train_loss == report.train_loss
        assert float(own.figures["flooded"]) == (sign < 0)
        for name, move in plain.items():
            torch.testing.assert_close(flooded[name], sign * move, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("accumulation", [2, 4])
def test_flooding_looks_at_the_loss_of_the_whole_batch(accumulation: int) -> None:
    # of the parts some are above the level and some below
    supernet = tabular()
    inputs, targets = batch()
    losses = [F.cross_entropy(supernet(x), y).item() for x, y in zip(inputs.split(2), targets.split(2), strict=True)]
    level = sum(losses) / 4 + 1e-3
    assert min(losses) < level < max(losses)
    whole, _ = moves(weights_rules=(Flooding(level),))
    parts, _ = moves(weights_rules=(Flooding(level),), accumulation=accumulation)
    for name, move in whole.items():
        torch.testing.assert_close(parts[name], move, rtol=1e-9, atol=1e-12)


def test_a_level_may_follow_the_epoch() -> None:
    _, report = moves()
    rising = Flooding(Linear(0.0, 3 * (report.train_loss + 0.1)))  # above the loss in epoch 1 of 4
    assert float(moves(weights_rules=(rising,))[1].figures["flooded"]) == 1.0
    with pytest.raises(OptionError, match="level of Flooding changes with the epoch"):
        moves(weights_rules=(rising,), progress=None)


def test_two_rules_act_one_after_the_other() -> None:
    plain, report = moves()
    twice, _ = moves(weights_rules=(Flooding(report.train_loss + 1.0), Flooding(report.train_loss + 1.0)))
    for name, move in plain.items():
        torch.testing.assert_close(twice[name], move, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("step", [Unrolled(), Implicit()])
def test_a_step_that_looks_ahead_is_refused(step: ag.bilevel.BilevelStep) -> None:
    with pytest.raises(OptionError, match="Flooding changes the weights' pass, but"):
        Method(step=step, weights_rules=(Flooding(0.1),))
    with pytest.raises(OptionError, match="level must be a finite number of at least 0"):
        Flooding(-0.1)


def test_a_search_says_how_often_it_was_flooded() -> None:
    torch.manual_seed(0)
    method = Method(weights_rules=(Flooding(10.0),))
    result = ag.search(TabularSpace(), DATA, method=method, epochs=2, batch_size=8, device="cpu", quiet=True)
    assert [row["flooded"] for row in result.history] == [1.0, 1.0]
    assert result.history[1]["train_loss"] > result.history[0]["train_loss"]
