"""Laws of costs that a table tells: their mean over the alphas is exact, and a budget in a column of it is kept."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

import archgrad as ag
from archgrad.decision import edge_row
from archgrad.errors import OptionError
from archgrad.nasbench import OPERATIONS, format_arch, load_table, parse_arch
from archgrad.table_cost import TableCost
from toys import relaxed

X = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
DATA = (X, (X[:, 0, 0, 0] > 0).long())
MS = {"none": 0.0, "skip_connect": 1.0, "nor_conv_1x1": 4.0, "nor_conv_3x3": 9.0, "avg_pool_3x3": 2.0}
EDGES = [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]


def arch_of(a: str, b: str, c: str, d: str, e: str, f: str) -> str:
    return f"|{a}~0|+|{b}~0|{c}~1|+|{d}~0|{e}~1|{f}~2|"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of all cells: each operation takes its milliseconds, and a first edge like the last one 10 more."""
    path = tmp_path_factory.mktemp("table") / "hardware.csv"
    with open(path, "w", encoding="utf-8", newline="") as text:
        writer = csv.writer(text)
        writer.writerow(["arch", "phone_ms", "chip_mj", "parameters", "accuracy"])
        for six in itertools.product(OPERATIONS, repeat=6):
            cost = sum(MS[name] for name in six) + 10.0 * (six[0] == six[5])
            writer.writerow([arch_of(*six), cost, -1 if six[0] == "none" else cost, 7, 10.0])
    return path


def space() -> torch.nn.Module:
    return ag.spaces.nasbench201(channels=2, cells=1, num_classes=2)


@pytest.fixture(scope="module")
def costs(file: Path) -> TableCost:
    return TableCost(space(), load_table(file), "phone_ms")


def test_the_mean_is_that_of_all_networks_and_its_gradient_is_exact(costs: TableCost) -> None:
    # Edges decide independently: E = sum over edges of p . ms, and 10 sum_o p_first[o] p_last[o].
    generator = torch.Generator().manual_seed(1)
    alphas = {label: torch.randn(5, generator=generator).tolist() for label in costs.rows}
    supernet = relaxed(space(), alphas)
    p = {edge: torch.tensor(alphas[edge_row("cell", *edge)], dtype=torch.float64).softmax(0) for edge in EDGES}
    rows = {label: torch.tensor(row, dtype=torch.float64).softmax(0).requires_grad_() for label, row in alphas.items()}
    mean = costs.mean(rows)
    ms = torch.tensor([MS[name] for name in costs.rows["cell/0->1"].names], dtype=torch.float64)
    closed = sum(each @ ms for each in p.values()) + 10 * p[0, 1] @ p[2, 3]
    assert mean.item() == pytest.approx(float(closed), rel=1e-12)
    mean.backward()
    # dE / dp_first[o] = E where the first edge takes o.
    rest = sum(p[edge] @ ms for edge in EDGES[1:])
    assert torch.allclose(rows["cell/0->1"].grad, ms + 10 * p[2, 3] + rest)
    part = ag.regularizers.CostBudget(limit=5, cost="phone_ms").bound(
        lambda cost: costs, lambda: {"CostBudget phone_ms": {"multiplier": torch.tensor(2.0)}}
    )
    assert part.value(*supernet.open_rows(), supernet.relaxation).item() == pytest.approx(2 * (float(closed) / 5 - 1))


def test_a_network_costs_what_the_table_says_and_the_range_is_of_networks_of_the_space(costs: TableCost) -> None:
    cell = arch_of("nor_conv_3x3", "none", "skip_connect", "none", "none", "nor_conv_3x3")
    assert costs.of(parse_arch(cell)) == 9 + 1 + 9 + 10
    assert sum(costs.where(parse_arch(cell)).values()) == 29
    # The cheapest cell with a path has a skip connection from its input to its output, and one on its first edge, which
    # is then not like the last one; that without a path, with any operation there alone, would take 1.
    assert (costs.range().smallest, costs.range().largest) == (2.0, 6 * 9.0 + 10)
    assert 1.0 < costs.range().median < 64.0


@pytest.mark.parametrize(
    ("cost", "message"),
    [
        ("chip_mj", r"no chip_mj of 3,125 of the 15,625 networks"),
        ("accuracy", r"no cost 'accuracy'. It has phone_ms, chip_mj, parameters"),
    ],
)
def test_a_cost_that_is_not_known_of_all_networks_is_refused(file: Path, cost: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        TableCost(space(), load_table(file), cost)


def test_the_table_of_another_space_is_refused(file: Path) -> None:
    with pytest.raises(OptionError, match=r"networks of the space nasbench201, which decide cell/.*Search that space"):
        TableCost(ag.spaces.nasbench_macro(channels=2), load_table(file), "phone_ms")


def searched(file: Path | None, budget: str, **more: Any) -> ag.SearchResult:
    torch.manual_seed(0)  # of the space's first weights
    options = {"epochs": 1, "batch_size": 4, "seed": 0, "quiet": True, "device": "cpu", **more}
    return ag.search(space(), DATA, budget=budget, cost_table=file, **options)


def test_every_epochs_network_keeps_a_budget_by_what_the_table_says(file: Path) -> None:
    found = searched(file, "phone_ms<=12", epochs=3, alphas_learning_rate=0.1)
    assert all(row["derived_phone_ms"] <= 12 for row in found.history)
    of_result = load_table(file).rows[format_arch(found.architecture)][1][0]
    assert of_result == found.history[-1]["derived_phone_ms"]
    changed = "before_budget" in found.architecture.provenance
    assert changed == (found.history[-1]["multiplier_phone_ms"] > 0)
    assert found.architecture.provenance["costs"]["phone_ms"] == {"the whole network, by the table": of_result}
    assert found.architecture.provenance["search"]["cost_table"] == "hardware.csv"


def test_what_the_table_has_is_not_measured_and_the_rest_is(file: Path) -> None:
    found = searched(file, "parameters<=8, multiply-adds<=1G")
    assert found.history[0]["derived_parameters"] == 7
    assert found.history[0]["derived_multiply_adds"] > 7


def test_tables_and_budgets_that_do_not_go_together_are_refused(file: Path) -> None:
    with pytest.raises(OptionError, match=r"no part of the method asks for one of its columns \(phone_ms, chip_mj"):
        searched(file, "multiply-adds<=1G")
    with pytest.raises(OptionError, match=r"cost='phone_ms'. A column of a table is one in a search with cost_table"):
        searched(None, "phone_ms<=12")
    with pytest.raises(OptionError, match=r"keeps the budget of 0.5 ms phone_ms.*smallest 2 ms, median .* ms, largest"):
        searched(file, "phone_ms<=0.5")
