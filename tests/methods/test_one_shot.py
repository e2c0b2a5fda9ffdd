"""One-shot selection: the best of drawn networks with the supernet's weights, within a budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import archgrad as ag
from archgrad.batches import WeightedTargets
from archgrad.decision import taken_candidates
from archgrad.discretize import discretize
from archgrad.epoch_end import EpochEnd
from archgrad.errors import OptionError
from archgrad.losses import SampleWeightedLoss
from archgrad.schedules import Progress
from archgrad.selection import OneShot
from archgrad.selection.measured import validated
from archgrad.testing import Times
from toys import Scales, relaxed, vector

ALL = OneShot(networks=8)


class Fan(nn.Module):
    """A node that adds two of x, 2x, 4x and 8x."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = ag.Cell(1, {"times": lambda s, n: Times(2.0**s)}, n_inputs=4, label="cell")

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.cell([x] * 4)
        return output


def end_of(supernet: ag.Supernet, factor: float, within_budget: Callable[[Any], bool] = lambda found: True) -> EpochEnd:
    """The end of an epoch whose targets are the inputs 1 and 2 times a factor."""
    x = vector(1.0, 2.0)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        return iter([(x[:1], factor * x[:1]), (x[1:], factor * x[1:])])

    first = next(batches())
    return EpochEnd(
        supernet, discretize(supernet), Progress(0, 2), F.mse_loss, lambda: first, batches, within_budget=within_budget
    )


def taken(supernet: ag.Supernet) -> dict[str, Any]:
    return dict(ag.discretize(supernet, scores=ALL.scores(supernet)).choices)


@pytest.mark.parametrize(("factor", "best"), [(6.0, ("three", "two")), (0.0, ("one", "none")), (2.5, ("one", "two"))])
def test_of_all_networks_the_best_is_taken_whatever_the_alphas_prefer(factor: float, best: tuple[str, str]) -> None:
    supernet = relaxed(Scales(), {"first": [0.5, 0.0], "second": [0.5, 0.0]})
    ALL.settle(end_of(supernet, factor), 0)
    assert taken(supernet) == dict(zip(("first", "second"), best, strict=True))


def test_what_breaks_the_budget_is_not_taken() -> None:
    supernet, said = relaxed(Scales()), list[str]()
    ALL.settle(end_of(supernet, 6.0, lambda found: found.choices["first"] != "three"), 0, said.append)
    assert taken(supernet) == {"first": "one", "second": "two"}
    # the losses are those of 0, 2 against 6: (36 + 144) / 2 and (16 + 64) / 2
    assert "2 networks were measured with the supernet's weights: loss from 40.0000 to 90.0000" in said[0]
    supernet = relaxed(Scales(), {"first": [0.0, 1.0]})
    ALL.settle(end_of(supernet, 6.0, lambda found: False), 0, said.append)
    assert "None of 400 networks that were drawn keeps the budget" in said[1]
    assert taken(supernet)["first"] == "three"


@pytest.mark.parametrize(("factor", "sources"), [(10.0, {1, 3}), (5.0, {0, 2})])
def test_a_cell_keeps_the_edges_of_the_best_network(factor: float, sources: set[int]) -> None:
    supernet = relaxed(Fan())
    ALL.settle(end_of(supernet, factor), 0)
    assert {edge.source for edge in taken(supernet)["cell"]["4"]} == sources


def test_candidates_are_drawn_also_where_what_is_never_taken_has_nearly_all_of_the_probability() -> None:
    named: dict[str, Callable[[int, int], nn.Module]] = {
        name: lambda s, n, factor=factor: Times(factor)  # type: ignore[misc]
        for name, factor in {"none": 0.0, "one": 1.0, "two": 2.0, "three": 3.0}.items()
    }
    cell = ag.Cell(1, named, n_inputs=1, n_kept=1, label="cell")
    supernet = relaxed(cell, {"cell/0->1": [20.0, 0.0, 0.0, 0.0]})
    drawn = OneShot(networks=3)._drawn(end_of(supernet, 1.0))
    assert sorted(name for found in drawn for name in taken_candidates(found.choices)["cell/0->1"]) == [
        "one",
        "three",
        "two",
    ]


class Shifted(nn.Module):
    """BatchNorm after one of two factors, as the supernet trained it: with statistics of neither."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = ag.LayerChoice({"one": Times(1.0), "three": Times(3.0)}, label="scale")
        self.norm = nn.BatchNorm1d(1, affine=False, eps=1e-12)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.scale(x))


def test_statistics_of_batch_norm_are_those_of_each_network_and_the_supernet_stays() -> None:
    supernet = relaxed(Shifted())
    x = vector(1.0, 2.0, 4.0, 5.0)[:, None]
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    # with its own statistics every network gives (x - 3) / sqrt(10 / 3), whatever its factor
    end = EpochEnd(
        *(supernet, discretize(supernet), Progress(0, 2), F.mse_loss),
        valid_batch=lambda: (x, x),
        valid_batches=lambda: iter([(x, (x - 3) / (10 / 3) ** 0.5)] * 2),
    )
    said: list[str] = []
    ALL.settle(end, 0, said.append)
    assert "2 networks were measured with the supernet's weights: loss from 0.0000 to 0.0000" in said[0]
    assert all(torch.equal(value, before[name]) for name, value in supernet.state_dict().items())
    assert supernet.training


def test_batches_count_by_the_weights_of_their_samples() -> None:
    x, weights = vector(1.0, 2.0, 4.0), torch.tensor([1.0, 0.0, 6.0])
    parts = [(x[rows], WeightedTargets(0 * x[rows], weights[rows])) for rows in (slice(0, 2), slice(2, 3))]
    supernet = relaxed(Scales())
    batches = {"valid_batch": lambda: parts[0], "valid_batches": lambda: iter(parts)}
    loss = SampleWeightedLoss(F.mse_loss)
    end = EpochEnd(supernet, discretize(supernet), Progress(0, 1), loss, **batches)  # type: ignore[arg-type]
    assert validated(end, "loss", nn.Identity()) == pytest.approx((1 * 1.0 + 6 * 16.0) / 7)


class Wide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        width = ag.ValueChoice([1, 2, 8], label="width")
        self.layers = nn.Sequential(ag.nn.Linear(2, width), ag.nn.BatchNorm1d(width), nn.ReLU(), ag.nn.Linear(width, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def test_a_search_with_a_budget_takes_a_network_within_it_and_resumes_to_it(tmp_path: Path) -> None:
    x = torch.randn(32, 2, generator=torch.Generator().manual_seed(0))
    data = (x, (x[:, 0] * x[:, 1] > 0).long())
    torch.manual_seed(0)
    space = Wide()
    options: dict[str, Any] = {"epochs": 1, "batch_size": 8, "quiet": True, "device": "cpu", "run_dir": tmp_path}
    method = ag.Method(selection=OneShot(networks=3, criterion="accuracy"))
    found = ag.search(space, data, method=method, budget="parameters<=20", **options)
    assert ag.cost.count_parameters(ag.derive(space, found)) <= 20
    scores = found.architecture.provenance["scores"]["width"]
    assert sorted(scores.values()) == [0.0, 0.0, 1.0]
    again = ag.search(space, data, method=method, budget="parameters<=20", resume=True, **options)
    assert again.architecture.to_json() == found.architecture.to_json()


def test_options_outside_their_range_and_partial_channels_are_refused() -> None:
    with pytest.raises(OptionError, match="networks must be a whole number of at least 1"):
        OneShot(networks=0)
    with pytest.raises(OptionError, match="criterion must be one of accuracy, loss"):
        OneShot(criterion="f1")  # type: ignore[arg-type]
    data = (torch.randn(8, 3, 4, 4), torch.arange(8) % 2)
    space = ag.spaces.darts_cifar(4, 2, 2, nodes=1, partial_channels=2)
    with pytest.raises(OptionError, match="a cell with partial_channels is derived with more channels"):
        ag.search(space, data, method=ag.Method(selection=OneShot()), epochs=1, batch_size=4, quiet=True, device="cpu")
