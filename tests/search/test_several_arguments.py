"""Networks that require several arguments get the parts of a batch as these, and learn what they would of one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import archgrad as ag
from archgrad.calling import run_on
from archgrad.data import TensorSamples
from archgrad.errors import OptionError
from archgrad.expected_cost import ExpectedCost
from archgrad.spaces import Skip, from_module


class OneArgument(nn.Module):
    """Takes a tuple (points, scale)."""

    def __init__(self) -> None:
        super().__init__()
        self.line = ag.LayerChoice({"plain": nn.Linear(4, 8), "bare": nn.Linear(4, 8, bias=False)}, label="line")
        self.head = nn.Linear(8, 3)

    def forward(self, batch: Any) -> Tensor:
        points, scale = batch
        return self.head(self.line(points).relu() * scale)


class TwoArguments(OneArgument):
    def forward(self, points: Tensor, scale: Tensor, *, twice: bool = False) -> Tensor:  # type: ignore[override]
        return super().forward((points, scale)) * (1 + twice)


POINTS, SCALE = torch.randn(24, 4, generator=torch.Generator().manual_seed(0)), torch.arange(24.0)[:, None] / 24
TARGETS = torch.arange(24) % 3


def learnt(kind: type[OneArgument], inputs: Any) -> tuple[list[float], Tensor]:
    torch.manual_seed(0)
    space = kind()
    samples = TensorSamples(inputs, TARGETS)
    data = ag.Data.from_datasets(samples, samples, classes=["a", "b", "c"])
    options = {"batch_size": 6, "epochs": 1, "quiet": True}
    found = ag.search(space, data, **options)
    result = ag.retrain(ag.derive(space, found), data, drop_path=0.0, **options)
    losses = [found.history[-1]["train_loss"], found.history[-1]["valid_loss"], result.history[-1]["test_loss"]]
    return losses, ag.derive(found.supernet, found.architecture, keep_weights=True).head.weight


def test_a_search_and_a_retraining_are_those_of_a_network_of_one_argument() -> None:
    losses, weight = learnt(OneArgument, (POINTS, SCALE))
    for inputs in ((POINTS, SCALE), {"scale": SCALE, "points": POINTS}):  # in order, and by name
        other, same = learnt(TwoArguments, inputs)
        assert other == losses
        assert torch.equal(same, weight)


def test_costs_and_selections_call_networks_so_too() -> None:
    sample = {"points": POINTS[:1], "scale": SCALE[:1]}
    torch.manual_seed(0)
    costs = [ExpectedCost(TwoArguments(), sample, cost).range() for cost in ("multiply-adds", "latency")]
    assert costs[0].smallest == costs[0].largest == 4 * 8 + 8 * 3
    assert costs[1].smallest > 0
    method = ag.Method(selection=ag.selection.OneShot(networks=1))
    data = ({"points": POINTS, "scale": SCALE}, TARGETS)
    assert ag.search(TwoArguments(), data, method=method, epochs=1, batch_size=6, quiet=True).architecture.choices


def test_parts_of_other_names_are_told() -> None:
    data = ({"points": POINTS, "factor": SCALE}, TARGETS)
    with pytest.raises(
        OptionError, match=r"requires several arguments \(points, scale, twice\).*: points, factor\. Let"
    ):
        ag.search(TwoArguments(), data, epochs=1, batch_size=6, quiet=True)


@pytest.mark.parametrize("optional", [False, True])
def test_an_argument_with_a_default_is_not_required(optional: bool) -> None:
    def both(x: Any, y: Any = None) -> Any:
        return x, y

    def several(x: Any, y: Any, *rest: Any, **more: Any) -> Any:
        return x, y, rest, more

    if optional:
        assert run_on(both, (1, 2)) == ((1, 2), None)
        assert run_on(both, {"x": 1}) == ({"x": 1}, None)
    else:
        assert run_on(several, (1, 2, 3)) == (1, 2, (3,), {})
        assert run_on(several, {"y": 2, "x": 1, "z": 3}) == (1, 2, (), {"z": 3})
        assert run_on(lambda x, y: (x, y), [1, 2]) == (1, 2)


class Block(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.tanh()


class Model(nn.Module):
    """Takes a tuple (points, scale)."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.head = Block(), nn.Linear(4, 3)

    def forward(self, batch: Any) -> Tensor:
        points, scale = batch
        return self.head(self.block(points)) * scale


class NamedModel(Model):
    def forward(self, batch: Any) -> Tensor:
        return super().forward((batch["points"], batch["scale"]))


class ModelOfTwo(Model):
    def forward(self, points: Tensor, scale: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward((points, scale))


@pytest.mark.parametrize(
    ("kind", "batch"),
    [
        (Model, (POINTS, SCALE)),
        (NamedModel, {"points": POINTS, "scale": SCALE}),
        (ModelOfTwo, (POINTS, SCALE)),
        (ModelOfTwo, {"points": POINTS, "scale": SCALE}),
    ],
)
def test_a_model_becomes_a_space_with_the_batch_that_a_search_gives_it(kind: Any, batch: Any) -> None:
    space = from_module(kind(), [Skip(at=Block)], batch=batch)
    assert ag.Supernet(space)(batch).shape == (24, 3)
