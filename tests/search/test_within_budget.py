"""The result of a search with a budget: the likeliest network that keeps it, where the likeliest of all does not."""

from __future__ import annotations

import itertools
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import archgrad as ag
from archgrad.decision import taken_candidates
from archgrad.discretize import discretize
from archgrad.methods import Ensemble
from archgrad.regularizers import CostBudget
from archgrad.search.terms import with_costs
from archgrad.search.within_budget import notes_on_budgets, within_budgets, without_budgets

X = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
DATA = (X, (X[:, 0] * X[:, 1] > 0).long())


class Layers(nn.Module):
    """Three layers, each of which is left out, or of one of two widths inside: 4 w + w + 4 w + 4 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*[ag.LayerChoice(self._candidates(), label=f"layer{k}") for k in range(3)])
        self.head = nn.Linear(4, 2)

    @staticmethod
    def _candidates() -> dict[str, nn.Module]:
        wide = {f"wide{w}": nn.Sequential(nn.Linear(4, w), nn.Tanh(), nn.Linear(w, 4)) for w in (2, 8)}
        return {"skip": nn.Identity(), **wide}

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, 2)."""
        return self.head(self.layers(x))


def bound(limit: float, space: nn.Module, inputs: Any = X[:1]) -> CostBudget:
    budget = CostBudget(limit=limit, cost="parameters")
    return budget.bound(lambda cost: ag.ExpectedCost(space, inputs, cost), lambda: {})


def likelihood(supernet: ag.Supernet, architecture: ag.Architecture) -> float:
    probabilities = supernet.probabilities()
    taken = taken_candidates(architecture.choices)
    return sum(
        math.log(probabilities[label][supernet.rows[label].names.index(name)])
        for label, names in taken.items()
        for name in names
    )


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("limit", [10, 32, 54, 76, 100, 160, 240])
def test_no_network_of_at_most_its_cost_is_likelier(limit: int, seed: int) -> None:
    supernet = ag.Supernet(Layers(), seed=0)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for row in supernet.alphas.values():
            row.copy_(2.0 * torch.randn(3, generator=generator))
    budget = bound(limit, Layers())
    found = discretize(supernet)
    taken = within_budgets(found, supernet, [budget])
    assert budget.keeps(taken)
    assert within_budgets(taken, supernet, [budget]) is taken
    assert without_budgets(taken) == found
    if budget.keeps(found):
        assert taken is found
        assert not notes_on_budgets(taken, [budget])
        return
    (note,) = notes_on_budgets(taken, [budget])
    assert "Decided otherwise: " in note
    every = [
        ag.Architecture(dict(zip(supernet.rows, names, strict=True)))
        for names in itertools.product(("skip", "wide2", "wide8"), repeat=3)
    ]
    cost = budget.table.of(taken)
    best = max(likelihood(supernet, each) for each in every if budget.table.of(each) <= cost)
    assert likelihood(supernet, taken) == pytest.approx(best)


def test_decisions_that_cost_nothing_stay_and_what_was_before_is_told() -> None:
    supernet = ag.Supernet(Layers(), seed=0)
    with torch.no_grad():
        for label, row in zip(supernet.alphas, ([0.0, 1.0, 3.0], [3.0, 0.0, 0.0], [0.0, 2.9, 3.0]), strict=True):
            supernet.alphas[label].copy_(torch.tensor(row))
    budget = bound(130, Layers())
    taken = within_budgets(discretize(supernet), supernet, [budget])
    assert dict(taken.choices) == {"layer0": "wide8", "layer1": "skip", "layer2": "wide2"}
    assert taken.provenance["before_budget"] == {"layer2": "wide8"}
    assert without_budgets(taken).choices["layer2"] == "wide8"
    assert sum(with_costs(taken, [budget]).provenance["costs"]["parameters"].values()) == 10 + 76 + 22


def test_of_rows_that_change_at_the_same_price_no_more_change_than_is_needed() -> None:
    supernet = ag.Supernet(Layers(), seed=0)
    with torch.no_grad():
        for row in supernet.alphas.values():
            row.copy_(torch.tensor([0.0, -9.0, 1.0]))
    taken = within_budgets(discretize(supernet), supernet, [bound(10 + 2 * 76, Layers())])
    assert sorted(taken.choices.values()) == ["skip", "wide8", "wide8"]


def test_two_budgets_are_kept_together() -> None:
    supernet = ag.Supernet(Layers(), seed=0)
    with torch.no_grad():
        for row in supernet.alphas.values():
            row.copy_(torch.tensor([0.0, 1.0, 3.0]))
    budgets = [bound(120, Layers()), CostBudget(limit=40).bound(lambda c: ag.ExpectedCost(Layers(), X[:1], c), dict)]
    taken = within_budgets(discretize(supernet), supernet, budgets)
    assert all(budget.keeps(taken) for budget in budgets)


def test_cells_keep_a_budget_by_their_own_rule() -> None:
    space = ag.spaces.nasbench201(channels=2, cells=1)
    supernet = ag.Supernet(space, seed=0)
    with torch.no_grad():
        for row in supernet.alphas.values():
            row.copy_(torch.tensor([0.0, 1.0, 2.0, 3.0, 0.5]))
    smallest, median, _ = ag.ExpectedCost(space, (3, 8, 8), "parameters").range()
    limit = (smallest + median) / 2
    taken = within_budgets(discretize(supernet), supernet, [bound(limit, space, (3, 8, 8))])
    assert ag.cost.count_parameters(ag.derive(space, taken)) <= limit
    assert "none" not in str(taken.choices)


def test_cells_with_partial_channels_keep_a_budget_as_they_are_derived() -> None:
    space = partial(ag.spaces.nasbench201, 4, 1, 3)
    data = (torch.randn(16, 3, 8, 8), torch.arange(16) % 3)
    options = {"epochs": 2, "batch_size": 8, "device": "cpu", "quiet": True}
    found = ag.search(space, data, method="pc-darts", budget="parameters<=6k", **options).architecture
    assert (
        ag.cost.count_parameters(ag.derive(space(), found))
        <= 6000
        < ag.ExpectedCost(space(), (3, 8, 8), "parameters").range().median
    )


@pytest.mark.parametrize("limit", [10, 54, 160])
def test_a_selection_that_leaves_out_every_candidate_of_a_row_keeps_a_budget(limit: int) -> None:
    # FairDARTS: at first all gates are below the threshold, so that every score is p - 1.
    supernet = ag.Supernet(Layers(), ag.relaxation.Sigmoid(), seed=0)
    with torch.no_grad():
        for row in supernet.alphas.values():
            row.copy_(torch.tensor([0.0, 0.2, 0.4]))
    budget = bound(limit, Layers())
    found = discretize(supernet, scores=ag.selection.Threshold().scores(supernet))
    assert set(found.choices.values()) == {"wide8"}
    taken = within_budgets(found, supernet, [budget])
    assert budget.keeps(taken)
    assert without_budgets(taken) == found


@pytest.mark.parametrize(
    ("limit", "seed", "more"), [(12, 3, {}), (80, 4, {"ensemble": Ensemble(2, without=("skip",))})]
)
def test_a_search_returns_and_keeps_the_network_within_its_budget(
    limit: int, seed: int, more: dict[str, Any], tmp_path: Path
) -> None:
    method = ag.Method(regularizers=(CostBudget(limit=limit, cost="parameters"),), **more)
    options = {"method": method, "epochs": 1, "batch_size": 8, "seed": seed, "quiet": True}
    run = tmp_path / "run"
    torch.manual_seed(seed)  # of the space's first weights
    result = ag.search(Layers(), DATA, **options, run_dir=run)
    taken = "wide2" if more else "skip"
    assert set(result.architecture.choices.values()) == {taken}
    assert set(result.architecture.provenance["before_budget"].values()) != {taken}
    assert ag.Architecture.load(run) == result.architecture
    assert result.architecture.provenance["multiplier"] > 0.0
    assert result.history[-1]["derived_parameters"] <= limit  # of the member alone, where there is an ensemble
    again = ag.search(Layers(), DATA, **options, run_dir=run, resume=True)
    assert again.architecture == result.architecture
    assert ag.Architecture.load(run) == result.architecture
