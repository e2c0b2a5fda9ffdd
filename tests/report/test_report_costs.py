"""What a report shows of costs: the budget beside each epoch's network, and where the cost sits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import run_factory
import yaml

from archgrad.architecture import Architecture
from archgrad.report.costs import budget_of, cost_tables, with_budgets
from archgrad.report.read import read_run
from archgrad.report.sections import run_pictures, run_section

BUDGET = {"name": "cost-budget", "limit": 900.0, "cost": "multiply-adds"}


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A search of three epochs with a budget of 900 multiply-adds."""
    folder = run_factory.write_general(tmp_path / "run", epochs=3)
    config = yaml.safe_load((folder / "config.yaml").read_text()) | {"method": {"regularizers": [BUDGET]}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    lines = (folder / "metrics.csv").read_text().splitlines()
    added = ["derived_multiply_adds,multiplier_multiply_adds", "1200,0", "1000,0.33", "800,0.44"]
    (folder / "metrics.csv").write_text("".join(f"{a},{b}\n" for a, b in zip(lines, added, strict=True)))
    file = folder / "checkpoints" / "epoch_2.json"
    found = Architecture.load(file)
    costs = {"multiply-adds": {"stem": 100.0, "body.0.conv": 300.0, "body.0.<b>": 400.0}}
    Architecture(found.choices, space=found.space, provenance={**found.provenance, "costs": costs}).save(file)
    return folder


def test_a_chart_has_the_cost_and_the_budget_and_the_page_where_it_sits(run_dir: Path) -> None:
    run = read_run(run_dir)
    assert with_budgets(run).columns["budget_multiply_adds"] == (900.0,) * 3
    pictures = run_pictures(run)
    charts = {picture.slug: picture for picture in pictures["curves"]}
    assert "derived: 800, budget: 900" in charts["cost-multiply-adds"].wide.name
    assert "Multiply-adds: 0.44" in charts["multiplier"].wide.name
    assert not any(slug.startswith("metric-") and "derived" in slug for slug in charts)
    page = run_section(run, "run", 1, pictures)
    assert page.index("Where the cost sits") < page.index("body.0.&lt;b&gt;") < page.index("body.0.conv")
    assert "<td>400</td><td>50.00 %</td>" in page


def test_a_cost_of_a_table_has_a_chart_with_its_budget_and_its_unit(run_dir: Path) -> None:
    budget = {"name": "cost-budget", "limit": 9.0, "cost": "phone_ms"}
    config = yaml.safe_load((run_dir / "config.yaml").read_text()) | {"method": {"regularizers": [budget]}}
    (run_dir / "config.yaml").write_text(yaml.safe_dump(config))
    metrics = (run_dir / "metrics.csv").read_text()
    (run_dir / "metrics.csv").write_text(metrics.replace("multiply_adds", "phone_ms"))
    charts = {picture.slug: picture for picture in run_pictures(read_run(run_dir))["curves"]}
    assert "derived: 800, budget: 9" in charts["metric-phone-ms"].wide.name
    told = cost_tables(Architecture({}, provenance={"costs": {"phone_ms": {"whole": 8.25}}}))
    assert "phone_ms (ms)" in told
    assert "<td>8.25</td>" in told


def test_parts_of_large_networks_are_put_together() -> None:
    parts = {f"stage{k % 2}.block{k}.conv": 1.0 + k for k in range(40)}
    many = {f"row{k}=conv": 1.0 for k in range(40)}
    found = cost_tables(Architecture({}, provenance={"costs": {"parameters": parts, "latency": many}}))
    assert "stage1</th><td>420</td>" in found  # 2 + 4 + ... + 40
    assert "all others</th><td>24</td><td>60.00 %</td>" in found


@pytest.mark.parametrize("told", [None, 5, {"parameters": 3}, {"parameters": {"a": 1e300, "b": "c", "d": -1}}])
def test_anyones_file_breaks_nothing(told: Any) -> None:
    assert cost_tables(Architecture({}, provenance={"costs": told})) == ""
    for parts in (None, 7, [7, {"name": "cost-budget"}, {**BUDGET, "limit": told}]):
        assert budget_of({"method": {"regularizers": parts}}, "derived_multiply_adds") in (None, 5.0)
