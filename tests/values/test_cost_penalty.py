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


def wide_first() -> ag.Supernet:
    torch.manual_seed(0)
    supernet = ag.Supernet(Wide(), seed=0)
    with torch.no_grad():
        supernet.alphas["width"].copy_(torch.tensor([-1.0, 1.0, 3.0]))
    return supernet


def test_the_multiplier_rises_until_the_derived_network_keeps_the_budget() -> None:
    found = searched(CostBudget(limit=30, cost="parameters"), supernet=wide_first(), epochs=1)  # four steps of 0.1
    # p of widths (1, 4, 16) as exp(a); they have 9, 30 and 114 parameters, so that 4 is taken in the place of 16 where
    # a_4 - 30 m / 30 > a_16 - 114 m / 30.
    a = found.supernet.alphas["width"].tolist()
    (row,) = found.history
    assert row["multiplier_parameters"] == pytest.approx((a[2] - a[1]) / ((114 - 30) / 30), rel=1e-4)
    assert row["derived_parameters"] == 30
    assert found.architecture.choices["width"] == 4
    assert found.architecture.provenance["before_budget"] == {"width": 16}
    assert ag.cost.count_parameters(ag.derive(Wide(), found.architecture)) == 30
    assert sum(found.architecture.provenance["costs"]["parameters"].values()) == 30


def test_a_budget_leaves_the_search_as_it_is_and_with_a_weight_presses_it_by_the_multiplier_of_before() -> None:
    plain = searched(supernet=wide_first(), epochs=3)
    within = searched(CostBudget(limit=30, cost="parameters"), supernet=wide_first(), epochs=3)
    for name, value in plain.supernet.state_dict().items():
        assert torch.equal(value, within.supernet.state_dict()[name]), name
    pressed = searched(CostBudget(limit=30, cost="parameters", weight=1.0), supernet=wide_first(), epochs=3)
    terms = [row["regularizer_CostBudget"] for row in pressed.history]
    assert terms[0] == 0.0
    assert terms[1] > 0.0
    assert pressed.history[0]["multiplier_parameters"] == within.history[0]["multiplier_parameters"]
    assert pressed.history[1]["multiplier_parameters"] < within.history[1]["multiplier_parameters"]
    assert "CostBudget parameters" in supernet_state(pressed.supernet)["memory"]


def test_what_the_networks_cost_is_said_and_a_budget_that_none_keeps_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(OptionError, match=r"keeps the budget of 5 multiply-adds.*smallest 6, median \d+, largest 96"):
        searched(CostBudget(limit=5))
    searched(CostBudget(limit=7), epochs=1, quiet=False)
    said = capsys.readouterr()
    assert "smallest 6, median" in said.out + said.err
