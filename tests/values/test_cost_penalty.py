"""Laws of cost as a part of a method: a penalty of weight 0 is none, and a budget is kept or refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import archgrad as ag
from archgrad.errors import OptionError
from archgrad.regularizers import CostBudget, CostPenalty
from archgrad.search.supernet_state import supernet_state
from toys import relaxed

X = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
DATA = (X, (X[:, 0] * X[:, 1] > 0).long())


class Wide(nn.Module):
    """One open width: 4 w + w + 2 w + 2 = 7 w + 2 parameters, 6 w multiply-adds."""

    def __init__(self) -> None:
        super().__init__()
        width = ag.ValueChoice([1, 4, 16], label="width")
        self.layers = nn.Sequential(ag.nn.Linear(4, width), nn.Tanh(), ag.nn.Linear(width, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def searched(*regularizers: Any, supernet: Any = None, **more: Any) -> ag.SearchResult:
    torch.manual_seed(0)
    return ag.search(
        supernet or Wide(),
        DATA,
        method=ag.Method(regularizers=regularizers, alphas_optimizer=ag.optimizers.Adam(0.1)),
        **{"epochs": 2, "batch_size": 8, "seed": 0, "quiet": True, **more},
    )


def test_the_penalty_is_the_mean_cost_as_a_share_of_that_of_equal_candidates() -> None:
    # E = 6 (1 + 4 * 2 + 16 * 5) / 8 where p = (1, 2, 5) / 8; equal: 6 * 21 / 3 = 42.
    supernet = relaxed(Wide(), {"width": torch.tensor([1.0, 2.0, 5.0]).log().tolist()})
    part = CostPenalty().bound(lambda cost: ag.ExpectedCost(supernet, (4,), cost), lambda: supernet.memory)
    alphas, rows = supernet.open_rows()
    assert part.value(alphas, rows, supernet.relaxation).item() == pytest.approx(6 * 89 / 8 / 42)
    supernet.kept["width"] = (0, 2)  # p = (1, 0, 5) / 6
    alphas, rows = supernet.open_rows()
    assert part.value(alphas, rows, supernet.relaxation).item() == pytest.approx(6 * 81 / 6 / 42)
    with pytest.raises(OptionError, match=r"CostPenalty needs to know what .*\.bound\(lambda cost"):
        CostPenalty().value(alphas, rows, supernet.relaxation)


def test_a_penalty_of_weight_zero_searches_as_without_it_to_the_bit() -> None:
    plain, zero, strong = searched(), searched(CostPenalty(weight=0.0)), searched(CostPenalty(weight=10.0))
    for name, value in plain.supernet.state_dict().items():
        assert torch.equal(value, zero.supernet.state_dict()[name]), name
    assert strong.architecture.choices["width"] == 1
    assert not torch.equal(plain.supernet.alphas["width"], strong.supernet.alphas["width"])


def test_the_multiplier_rises_until_the_derived_network_keeps_the_budget() -> None:
    supernet = ag.Supernet(Wide(), seed=0)
    with torch.no_grad():
        supernet.alphas["width"].copy_(torch.tensor([0.0, 0.2, 1.0]))
    found = searched(CostBudget(limit=30, cost="parameters", rate=1.0), supernet=supernet, epochs=8)
    derived = [row["derived_parameters"] for row in found.history]
    multipliers = [row["multiplier_parameters"] for row in found.history]
    assert derived[0] == 7 * 16 + 2
    assert derived[-1] <= 30
    # m after an epoch = max(0, m + cost / limit - 1)
    for before, after, cost in zip(multipliers, multipliers[1:], derived, strict=False):
        assert after == pytest.approx(max(0.0, before + cost / 30 - 1))
    assert "CostBudget parameters" in supernet_state(found.supernet)["memory"]
    assert ag.cost.count_parameters(ag.derive(Wide(), found.architecture)) == derived[-1]
    told = found.architecture.provenance["costs"]["parameters"]
    assert sum(told.values()) == derived[-1]


def test_what_the_networks_cost_is_said_and_a_budget_that_none_keeps_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(OptionError, match=r"keeps the budget of 5 multiply-adds.*smallest 6, median \d+, largest 96"):
        searched(CostBudget(limit=5))
    searched(CostBudget(limit=7), epochs=1, quiet=False)
    said = capsys.readouterr()
    assert "smallest 6, median" in said.out + said.err
