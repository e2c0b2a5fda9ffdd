"""The short form of budgets, in Python and on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import archgrad as ag
from archgrad.cli.common_options import parse
from archgrad.cli.method_options import make_method
from archgrad.cli.search_command import make_parser
from archgrad.errors import OptionError
from archgrad.methods.tree import KINDS, tree_of
from archgrad.regularizers import CostBudget, CostPenalty, budgets_of
from archgrad.search.short_forms import MethodOptions


@pytest.mark.parametrize(
    ("text", "budgets"),
    [
        ("multiply-adds<=300M", [CostBudget(limit=300e6)]),
        (" parameters <= 20k ", [CostBudget(limit=20e3, cost="parameters")]),
        ("activations<=1.5G", [CostBudget(limit=1.5e9, cost="activations")]),
        ("latency<=8ms", [CostBudget(limit=8.0, cost="latency")]),
        (
            "multiply_adds<=1e6,parameters<=.5M",
            [CostBudget(limit=1e6), CostBudget(limit=5e5, cost="parameters")],
        ),
        # columns of a table of costs, which say their unit themselves
        ("raspi4_ms<=8.5", [CostBudget(limit=8.5, cost="raspi4_ms")]),
        ("raspi4_ms<=8ms, chip_mj<=3mJ", [CostBudget(limit=8, cost="raspi4_ms"), CostBudget(limit=3, cost="chip_mj")]),
    ],
)
def test_a_text_is_a_budget_with_its_defaults(text: str, budgets: list[CostBudget]) -> None:
    assert list(budgets_of(text)) == budgets
    assert list(MethodOptions(budget=text.split(",")).choose_method().regularizers) == budgets


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("parameters<20k", "takes COST<=NUMBER, .* but got 'parameters<20k'"),
        ("parameters<=0x10", "takes COST<=NUMBER"),
        ("parameters<=1m", "A budget of parameters is a number plain or with k, M, G, but got"),
        ("parameters<=20ms", "A budget of parameters is a number plain or with k, M, G, but got 'parameters<=20ms'"),
        ("latency<=8", "A budget of latency is a number in ms, such as 8ms, but got 'latency<=8'"),
        ("raspi4_ms<=8k", "A budget of raspi4_ms is a number in ms, such as 8ms, but got 'raspi4_ms<=8k'"),
        ("raspi4<=8", "There is no cost 'raspi4' .* and columns of a cost_table whose names end with _ms or _mj"),
        ("parameter<=8", "There is no cost 'parameter' .* Did you mean 'parameters'"),
        ("parameters<=0", "limit must be a finite number above 0"),
        ("", "takes COST<=NUMBER"),
        ([], "budget must be a text such as"),
        (300, "budget must be a text such as"),
        (["parameters<=1k", "parameters<=2k"], "budget has parameters more than once"),
    ],
)
def test_what_is_no_budget_is_refused(given: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        budgets_of(given)


def test_a_budget_stands_beside_what_the_method_has_but_not_beside_one_of_the_same_cost() -> None:
    penalty, budget = CostPenalty(cost="parameters"), CostBudget(limit=5.0, cost="parameters")
    method = MethodOptions(method=ag.Method(regularizers=(penalty,)), budget="parameters<=5").choose_method()
    assert method.regularizers == (penalty, budget)
    with pytest.raises(OptionError, match="budget asks for parameters<=7, but the method has a CostBudget"):
        MethodOptions(method=method, budget="parameters<=7").choose_method()


def made(*typed: str, stored: ag.Method | None = None) -> list[Any]:
    values = parse(make_parser(), typed, command="search", parts=tuple(KINDS))
    if stored is not None:
        values["stored_method"] = tree_of(stored)
    return list(make_method(values).regularizers)


def test_the_command_line_takes_budgets_with_commas_and_again_and_over_those_of_an_earlier_run(
    tmp_path: Path,
) -> None:
    one, other = CostBudget(limit=20e3, cost="parameters"), CostBudget(limit=3e8)
    assert made("--budget", "parameters<=20k, multiply-adds<=300M") == [one, other]
    assert made("--budget", "parameters<=20k", "--budget", "multiply-adds<=300M") == [one, other]
    assert made("--budget", "parameters<=20k", stored=ag.Method(regularizers=(one,))) == [one]
    assert made("--budget", "parameters<=20k", stored=ag.Method(regularizers=(CostBudget(limit=1.0),)))[-1] == one
    assert made("--budget", "parameters<=20k", "--regularizers.cost-budget.weight", "2")[-1].weight == 2.0
    config = tmp_path / "config.yaml"
    config.write_text("budget: parameters<=20k\n")
    assert made("--config", str(config)) == [one]
    assert made("--config", str(config), "--budget", "multiply-adds<=300M") == [other]
    with pytest.raises(OptionError, match="budget asks for parameters<=20000, but the method has"):
        made(
            "--budget=parameters<=20k", "--regularizers=cost-budget", "--regularizers.cost-budget.limit=7",
            "--regularizers.cost-budget.cost=parameters",
        )  # fmt: skip
