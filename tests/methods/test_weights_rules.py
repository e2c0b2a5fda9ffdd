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
from archgrad.weights_rules import Flooding, LayerAlignment, alignment

DATA = (torch.randn(44, 4, generator=torch.Generator().manual_seed(0)), torch.arange(44) % 3)


def supernet_of(space: torch.nn.Module) -> ag.Supernet:
    return ag.Supernet(space, seed=0).double().train()


def tabular() -> ag.Supernet:
    torch.manual_seed(0)
    return supernet_of(TabularSpace())


class Layers(torch.nn.Module):
    """Three layers of smooth candidates that decide together, a fourth by itself, and one of those left out, twice."""

    def __init__(self) -> None:
        super().__init__()
        labels = ("layer", "layer", "alone", "reduce", "reduce", "layer")
        self.layers = torch.nn.Sequential(*(self._layer(label) for label in labels))
        self.head = torch.nn.Linear(4, 3)

    @staticmethod
    def _layer(label: str) -> ag.LayerChoice:
        linear = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh())
        return ag.LayerChoice(
            {"linear": linear, "soft": torch.nn.Softplus(), "norm": torch.nn.BatchNorm1d(4)}, label=label
        )

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.layers(x))
        return result


def layered(**options: Any) -> ag.Supernet:
    torch.manual_seed(0)
    return ag.Supernet(Layers(), seed=0, **options).double().train()


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


def moves(supernet: ag.Supernet | None = None, **options: Any) -> tuple[dict[str, Tensor], ag.StepReport]:
    """Return what one step does to each weight."""
    supernet = tabular() if supernet is None else supernet
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


def test_the_gradient_of_the_mean_cosine_is_that_of_autograd() -> None:
    gradients = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    units = gradients / gradients.norm(dim=1, keepdim=True)
    cosine = torch.stack([units[i] @ units[j] for i in range(4) for j in range(i)]).mean()
    found = alignment(gradients.detach())
    assert found[0].item() == pytest.approx(cosine.item(), rel=1e-12)
    torch.testing.assert_close(found[1], torch.autograd.grad(cosine, gradients)[0], rtol=1e-10, atol=1e-14)
    dead = torch.tensor([[0.0, 0.0], [1.0, 2.0]])
    assert alignment(dead)[0] == 0.0
    torch.testing.assert_close(alignment(dead)[1], torch.zeros(2, 2), rtol=0.0, atol=1e-6)


def test_alignment_adds_the_gradient_of_minus_the_mean_cosine_of_the_layers() -> None:
    # exactly: C(w) by autograd through the gradients of the layers' own mixing weights
    plain, _ = moves(layered())
    ours, report = moves(layered(), weights_rules=(LayerAlignment(0.7),))
    supernet = layered()
    with supernet.layers_apart() as layers:
        assert {label: [len(rows) for rows in each] for label, each in layers.items()} == {
            "layer": [1, 1, 1], "reduce": [1, 1],
        }  # fmt: skip
        value = F.cross_entropy(supernet(batch()[0]), batch()[1])
        slopes = torch.autograd.grad(value, [rows[0] for rows in layers["layer"]], create_graph=True)
    units = [slope.flatten() / slope.norm() for slope in slopes]
    cosine = torch.stack([units[i] @ units[j] for i in range(3) for j in range(i)]).mean()
    weights = supernet.weights
    expected = torch.autograd.grad(cosine, list(weights.values()), allow_unused=True)
    assert float(report.figures["layer_cosine"]) == pytest.approx(cosine.item(), rel=1e-9)
    assert max(float((ours[name] - plain[name]).abs().max()) for name in weights) > 1e-3
    for name, term in zip(weights, expected, strict=True):
        wanted = torch.zeros_like(weights[name]) if term is None else 0.7 * term
        torch.testing.assert_close(ours[name] - plain[name], wanted, rtol=1e-5, atol=1e-8, msg=name)


def test_alignment_leaves_no_trace_beside_the_gradient() -> None:
    states = []
    for rules in ((), (LayerAlignment(0.0),), (LayerAlignment(0.7),)):
        supernet = layered()
        moves(supernet, weights_rules=rules)
        buffers = {name: value.clone() for name, value in supernet.named_buffers()}
        supernet(batch()[0])  # outside, layers are mixed by their alphas again
        states.append((buffers, supernet.generator.get_state(), torch.get_rng_state(), dict(supernet.weights)))
    for buffers, generator, randomness, _ in states[1:]:
        assert buffers.keys() == states[0][0].keys()
        assert all(torch.equal(value, states[0][0][name]) for name, value in buffers.items())
        assert torch.equal(generator, states[0][1])
        assert torch.equal(randomness, states[0][2])
    for name, weight in states[1][3].items():  # a factor of 0 is no term
        torch.testing.assert_close(weight, states[0][3][name], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("options", [{"fast": False}, {"activation_checkpointing": True}])
def test_alignment_is_the_same_however_it_is_computed(options: dict[str, bool]) -> None:
    expected, _ = moves(layered(), weights_rules=(LayerAlignment(0.7),))
    found, _ = moves(layered(**options), weights_rules=(LayerAlignment(0.7),))
    for name, move in expected.items():
        torch.testing.assert_close(found[name], move, rtol=1e-9, atol=1e-12)


def test_alignment_sees_the_whole_batch() -> None:
    def smooth() -> ag.Supernet:
        supernet = layered()
        for layer in supernet.network.layers:
            layer.candidates[2] = torch.nn.Softsign()  # BatchNorm sees the parts
        return supernet

    whole, _ = moves(smooth(), weights_rules=(LayerAlignment(0.7),))
    parts, _ = moves(smooth(), weights_rules=(LayerAlignment(0.7),), accumulation=4)
    for name, move in whole.items():
        torch.testing.assert_close(parts[name], move, rtol=1e-6, atol=1e-8)


def test_the_cosine_of_the_layers_rises() -> None:
    def last_cosine(factor: float) -> float:
        torch.manual_seed(0)
        method = Method(weights_rules=(LayerAlignment(factor),))
        result = ag.search(Layers(), DATA, method=method, epochs=12, batch_size=11, device="cpu", quiet=True, seed=1)
        found: float = result.history[-1]["layer_cosine"]
        return found

    assert last_cosine(1.0) > last_cosine(0.0) + 0.05


def test_alignment_is_refused_where_it_means_nothing() -> None:
    with pytest.raises(OptionError, match="but this space shares none"):
        moves(weights_rules=(LayerAlignment(),))
    with pytest.raises(OptionError, match="without 'e' in it, but this space shares layer, reduce"):
        moves(layered(), weights_rules=(LayerAlignment(without="e"),))
    with pytest.raises(OptionError, match="Gumbel draws those that run"):
        Method(relaxation=ag.Gumbel(), weights_rules=(LayerAlignment(),))
