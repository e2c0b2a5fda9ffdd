"""Laws of latency as a cost, on a clock that says what the test wants: nothing here depends on the machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import archgrad as ag
from archgrad.errors import OptionError
from archgrad.latency import Latency, LatencyTable
from archgrad.regularizers import CostBudget, CostPenalty
from toys import relaxed

X = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
DATA = (X, (X[:, 0] > 0).long())
NOW, RUNS = [0.0], [0]


class Takes(nn.Module):
    """Takes so many milliseconds of the clock."""

    def __init__(self, milliseconds: float) -> None:
        super().__init__()
        self.milliseconds = milliseconds

    def forward(self, x: Tensor) -> Tensor:
        NOW[0] += 1e-3 * self.milliseconds
        RUNS[0] += 1
        return x


class Space(nn.Module):
    """5 ms, then twice 1 or 4 ms, then twice 2 ms or a layer that takes no time."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Takes(5.0)
        self.a = ag.LayerChoice({"short": Takes(1.0), "long": Takes(4.0)}, label="a")
        self.b = ag.LayerChoice({"short": Takes(1.0), "long": Takes(4.0)}, label="b")
        self.c = ag.LayerChoice({"two": Takes(2.0), "linear": nn.Linear(4, 4)}, label="c")
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(self.c(self.b(self.a(self.first(x))))))


def clock() -> float:
    return NOW[0]


@pytest.fixture(scope="module")
def costs() -> ag.ExpectedCost:
    return ag.ExpectedCost(Space(), (4,), "latency", latencies=LatencyTable(clock=clock))


def test_the_latency_of_a_network_is_the_sum_of_its_operations_and_a_constant(costs: ag.ExpectedCost) -> None:
    assert costs.constant == pytest.approx(5.0)
    assert costs.of({"a": "long", "b": "short", "c": "two"}) == pytest.approx(5 + 4 + 1 + 2 * 2)
    assert costs.range() == pytest.approx((7.0, costs.range().median, 17.0))
    assert costs.where({"a": "long", "b": "short", "c": "two"})["a=long"] == pytest.approx(4.0)
    # E = 5 + 2 (1 + 4 * 3) / 4 + 2 * 2 * 1 / 4
    supernet = relaxed(Space(), {"a": torch.tensor([1.0, 3.0]).log().tolist()})
    with torch.no_grad():
        supernet.alphas["b"].copy_(supernet.alphas["a"])
        supernet.alphas["c"].copy_(torch.tensor([1.0, 3.0]).log())
    assert costs.expected(supernet).item() == pytest.approx(5 + 2 * 13 / 4 + 1)


def test_equal_operations_are_timed_once_and_a_table_is_not_timed_again(costs: ag.ExpectedCost) -> None:
    names = [latency.operation for latency in costs.latencies.known.values()]
    assert sum(name == "Takes()" for name in names) == 3
    assert sum(name.startswith("Linear") for name in names) == 1
    runs = RUNS[0]
    again = LatencyTable(clock=clock, known=costs.latencies.known, complete=True)
    calls = ag.ExpectedCost(Space(), (4,), "latency", latencies=again)
    assert RUNS[0] - runs < 20  # a pass of all candidates, but no repeats
    assert calls.of({"a": "long", "b": "long", "c": "two"}) == pytest.approx(17.0)
    with pytest.raises(OptionError, match=r"does not have 'Takes\(\)' with the inputs \(1, 4\)"):
        ag.ExpectedCost(Space(), (4,), "latency", latencies=LatencyTable(complete=True))


def test_the_median_of_the_repeats_counts_and_their_quartiles_are_kept() -> None:
    took = iter([9.0, 9.0, 9.0, *[1.0] * 7, 2.0, *[3.0] * 7])  # the first three are the warm-up

    def run() -> None:
        NOW[0] += 1e-3 * next(took)

    table = LatencyTable(clock=clock)
    assert table.milliseconds("key", "a layer", "(1, 2)", run) == pytest.approx(2.0)
    assert table.known["key"] == Latency("a layer", "(1, 2)", pytest.approx(2.0), pytest.approx(2.0))


def test_an_open_layer_is_timed_as_the_plain_one_that_is_derived_of_it() -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            width = ag.ValueChoice([2, 3], label="width")
            self.layers = nn.Sequential(ag.nn.Linear(4, width), ag.nn.Linear(width, 2))

        def forward(self, x: Tensor) -> Tensor:
            return self.layers(x)

    found = ag.ExpectedCost(Wide(), (4,), "latency", latencies=LatencyTable(clock=clock)).latencies.known.values()
    shapes = {(each.operation, each.inputs) for each in found if each.operation.startswith("Linear(in")}
    names = [(4, 2), (4, 3), (2, 2), (3, 2)]
    assert shapes == {(f"Linear(in_features={a}, out_features={b}, bias=True)", f"(1, {a})") for a, b in names}


def test_an_open_batch_norm_is_timed_with_the_channels_that_it_has() -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            width = ag.ValueChoice([2, 3], label="width")
            self.layers = nn.Sequential(ag.nn.Linear(4, width), ag.nn.BatchNorm1d(width), ag.nn.Linear(width, 2))

        def forward(self, x: Tensor) -> Tensor:
            return self.layers(x)

    found = ag.ExpectedCost(Wide(), (4,), "latency", latencies=LatencyTable(clock=clock)).latencies.known.values()
    shapes = {(each.operation.partition(",")[0], each.inputs) for each in found if each.operation.startswith("BatchN")}
    assert shapes == {("BatchNorm1d(2", "(1, 2)"), ("BatchNorm1d(3", "(1, 3)")}


def test_a_multiplicative_penalty_is_the_logarithm_of_the_share() -> None:
    supernet = relaxed(Space(), {"a": torch.tensor([1.0, 3.0]).log().tolist(), "b": [0.0, 0.0], "c": [0.0, 0.0]})
    tables = {"latency": ag.ExpectedCost(supernet, (4,), "latency", latencies=LatencyTable(clock=clock))}
    part = CostPenalty(cost="latency", multiplicative=True).bound(lambda cost: tables[cost], lambda: {})
    # E = 5 + 13 / 4 + 5 / 2 + 2 of 5 + 5 / 2 + 5 / 2 + 2 where all are equal
    value = part.value(*supernet.open_rows(), supernet.relaxation)
    assert value.item() == pytest.approx(torch.tensor(12.75 / 12.0).log().item(), rel=1e-5)
    value.backward()
    assert supernet.alphas["a"].grad[1] > 0


def searched(folder: Path, **more: Any) -> ag.SearchResult:
    method = ag.Method(regularizers=(CostBudget(limit=1e6, cost="latency"),))
    return ag.search(
        Space(),
        DATA,
        **{"method": method, "epochs": 1, "batch_size": 8, "quiet": True, "device": "cpu", "run_dir": folder, **more},
    )


def test_a_run_keeps_its_table_which_a_resumed_one_and_another_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched(tmp_path / "run")
    file = tmp_path / "run" / "latency.json"
    content = json.loads(file.read_text())
    assert content["threads"] == torch.get_num_threads()
    assert {"device", "versions", "repeats"} <= content.keys()
    for entry in content["operations"].values():
        entry["milliseconds"] = 3.0
    file.write_text(json.dumps(content))

    def refused(*_: object) -> None:
        raise AssertionError("it was timed again")

    monkeypatch.setattr(LatencyTable, "_timed", refused)
    searched(tmp_path / "run", resume=True)
    assert json.loads(file.read_text()) == content
    # constant = max(0, 3 - 4 * 3): the networks of the table take no longer than one operation
    other = searched(tmp_path / "other", latency_table=file)
    assert other.history[0]["derived_latency"] == pytest.approx(9.0)
    with pytest.raises(OptionError, match="latency_table tells how long operations take, but no part"):
        searched(tmp_path / "third", latency_table=file, method=ag.Method())
    file.write_text("{}")
    with pytest.raises(OptionError, match="is no table of latencies"):
        searched(tmp_path / "third", latency_table=file)
