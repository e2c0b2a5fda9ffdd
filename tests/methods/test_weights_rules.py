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
from archgrad.weights_rules import Flooding, FreezeOperations, LayerAlignment, alignment, gradient_match

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


def test_the_match_is_the_cosine_along_the_first_dimension_averaged() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = {"a.weight": (4, 3, 2, 2), "a.bias": (4,), "b.weight": (4, 3, 2, 2), "c.weight": (2, 5), "d.scale": ()}
    train, valid = (
        {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}
        for _ in range(2)
    )
    owners = {name: name[0] for name in [*shapes, "e.weight"] if name[0] != "c"}
    match, seen = gradient_match({**train, "e.weight": None}, {**valid, "e.weight": None}, owners)
    expected = {
        name: F.cosine_similarity(train[name].reshape(-1, 1) if not shape else train[name], valid[name], dim=0).mean()
        for name, shape in shapes.items()
        if shape
    }
    torch.testing.assert_close(match[0], (expected["a.weight"] + expected["a.bias"]) / 2.0, rtol=1e-12, atol=0.0)
    torch.testing.assert_close(match[1], expected["b.weight"], rtol=1e-12, atol=0.0)
    assert float(match[2]) == float(torch.sign(train["d.scale"] * valid["d.scale"]))
    assert seen.tolist() == [1.0, 1.0, 1.0, 0.0]


def test_a_candidate_owns_the_weights_in_it_and_the_innermost_counts() -> None:
    owners = tabular().owners
    assert owners == {
        "first.candidates.0.0.weight": "first.candidates.0",
        "first.candidates.0.0.bias": "first.candidates.0",
        "second.candidates.0.weight": "second.candidates.0",
        "second.candidates.0.bias": "second.candidates.0",
    }
    cell = ag.Cell(1, {"skip": lambda s, n: torch.nn.Identity(), "conv": lambda s, n: torch.nn.Conv2d(2, 2, 1)})
    assert ag.Supernet(cell).owners["edges.1.candidates.1.bias"] == "edges.1.candidates.1"
    nested = ag.LayerChoice([torch.nn.Sequential(ag.LayerChoice([torch.nn.Linear(2, 2)]), torch.nn.Linear(2, 2))])
    assert set(ag.Supernet(nested).owners.values()) == {"candidates.0", "candidates.0.0.candidates.0"}


def frozen_search(steps: int, **options: Any) -> tuple[list[dict[str, Tensor]], list[ag.StepReport], ag.Supernet]:
    """Take steps on the same two batches; return the weights after each."""
    supernet = tabular()
    optimizer = torch.optim.SGD(supernet.weights.values(), 0.1, momentum=0.9, weight_decay=0.1)
    weights, reports = [], []
    for _ in range(steps):
        reports.append(stepped(supernet, weights_optimizer=optimizer, update_alphas=True, **options))
        weights.append({name: weight.detach().clone() for name, weight in supernet.weights.items()})
    return weights, reports, supernet


def test_a_candidate_whose_match_is_low_over_an_interval_stays_as_it_is_from_then_on() -> None:
    # what the match is in the first two steps, measured by hand
    matches = []
    for supernet in (tabular(), frozen_search(1)[2]):
        sides = [
            torch.autograd.grad(F.cross_entropy(supernet(x), y), list(supernet.weights.values()), allow_unused=True)
            for x, y in (batch(), batch(8))
        ]
        found, _ = gradient_match(*(dict(zip(supernet.weights, side, strict=True)) for side in sides), supernet.owners)
        matches.append(found)
    mean = (matches[0] + matches[1]) / 2.0
    lower = int(mean.argmin())
    threshold = float(mean.mean())
    ours, reports, supernet = frozen_search(3, weights_rules=(FreezeOperations(threshold, 2),))
    names = list(dict.fromkeys(supernet.owners.values()))
    assert [round(float(report.figures["frozen_operations"]), 6) for report in reports] == [0.0, 0.5, 0.5]
    for name, weight in ours[-1].items():
        still = supernet.owners.get(name) == names[lower]
        assert torch.equal(weight, ours[0][name]) == still, name  # the second step is the first that is left out
    assert supernet.memory["0 FreezeOperations"]["frozen"].tolist() == [float(lower == 0), float(lower == 1)]


def test_nothing_is_frozen_above_the_threshold_and_the_alphas_gradient_stays() -> None:
    plain, plain_reports, _ = frozen_search(4)
    ours, reports, _ = frozen_search(4, weights_rules=(FreezeOperations(-1.0, 1),))
    for a, b in zip(plain[-1].values(), ours[-1].values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-13)
    for ruled, free in zip(reports, plain_reports, strict=True):
        assert ruled.alphas_gradient_norm == pytest.approx(free.alphas_gradient_norm, rel=1e-10)
        assert -1.0 <= float(ruled.figures["gradient_match"]) <= 1.0


def test_the_match_of_parts_is_that_of_the_whole_batch() -> None:
    rule = (FreezeOperations(0.4, 2),)
    whole, _, first = frozen_search(3, weights_rules=rule)
    parts, _, second = frozen_search(3, weights_rules=rule, accumulation=4)
    for name, value in first.memory["0 FreezeOperations"].items():
        torch.testing.assert_close(second.memory["0 FreezeOperations"][name], value, rtol=1e-8, atol=1e-10)
    for name, weight in whole[-1].items():
        torch.testing.assert_close(parts[-1][name], weight, rtol=1e-8, atol=1e-11)


def test_in_a_larger_network_a_candidate_keeps_its_memory_and_a_new_one_has_none() -> None:
    memory = {"frozen": torch.tensor([1.0, 0.0]), "match_sums": torch.tensor([0.0, 3.0])}
    before, after = {"a": "x", "b": "y"}, {"c": "new", "a": "x", "a2": "x", "b": "y"}
    found = FreezeOperations().widened(memory, before, after)
    assert {name: value.tolist() for name, value in found.items()} == {
        "frozen": [0.0, 1.0, 0.0],
        "match_sums": [0.0, 0.0, 3.0],
    }
    assert Flooding(0.1).widened(memory, before, after) == memory


def test_while_the_alphas_wait_nothing_is_measured() -> None:
    _, report = moves(weights_rules=(FreezeOperations(1.0, 1),), update_alphas=False)
    assert float(report.figures["gradient_match"]) == float(report.figures["frozen_operations"]) == 0.0


@pytest.mark.parametrize("options", [{"weights_first": True}, {"step": ag.bilevel.Flat()}])
def test_freezing_is_refused_without_the_alphas_pass_before(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="FreezeOperations compares the weights' gradient with that of the alphas'"):
        Method(weights_rules=(FreezeOperations(),), **options)
