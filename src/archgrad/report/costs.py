"""What networks cost, as the report shows it: over the epochs against the budget, and where it sits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from archgrad.architecture import Architecture
from archgrad.cost_names import unit_of_cost
from archgrad.report.charts import format_value
from archgrad.report.elements import table
from archgrad.report.read import Run, Table
from archgrad.report.svg import escape

__all__ = ["budget_of", "cost_tables", "with_budgets"]

_MOST_ROWS = 16
_DEEPEST = 8
_LARGEST = 1e18


def with_budgets(run: Run) -> Table:
    """Return the run's metrics with a column `budget_COST` beside each `derived_COST` that has a budget."""
    budgets = {name: budget_of(run.config, name) for name in run.metrics.columns if name.startswith("derived_")}
    columns = {
        name.replace("derived_", "budget_", 1): (limit,) * len(run.metrics.epochs)
        for name, limit in budgets.items()
        if limit is not None
    }
    return replace(run.metrics, columns={**run.metrics.columns, **columns})


def budget_of(config: Mapping[str, Any], column: str) -> float | None:
    """Return the limit of what a column `derived_COST` tells; None where there is none.

    Args:
        config: Of a run, which may be anyone's.
        column: Of its metrics.
    """
    method = config.get("method")
    parts = method.get("regularizers") if isinstance(method, Mapping) else None
    for part in parts if isinstance(parts, list) else []:
        named = isinstance(part, Mapping) and part.get("name") == "cost-budget"
        if named and column == f"derived_{str(part.get('cost')).replace('-', '_')}":
            return _number(part.get("limit"))
    return None


def cost_tables(architecture: Architecture) -> str:
    """Return a table for each cost that the provenance of an architecture tells: its parts, what costs most first."""
    told: Any = architecture.provenance.get("costs")
    tables = []
    for cost, parts in told.items() if isinstance(told, Mapping) else ():
        costs = {path: _number(n) for path, n in parts.items()} if isinstance(parts, Mapping) else {}
        known = {path: n for path, n in costs.items() if n}
        if known:
            tables.append(_table(cost, known))
    return f"<h3>Where the cost sits</h3>{''.join(tables)}" if tables else ""


def _table(cost: str, parts: Mapping[str, float]) -> str:
    whole, unit = sum(parts.values()), unit_of_cost(cost)
    rows = [
        [escape(path), f"{n:.3g}" if unit else f"{n:,.0f}", format_value(n / whole, percent=True)]
        for path, n in _grouped(parts).items()
    ]
    head = ["part", f"{cost} ({unit})" if unit else cost, "share"]
    return table(head, rows, name=f"Where the {cost} of the derived network sit")


def _grouped(parts: Mapping[str, float]) -> dict[str, float]:
    """Return the costs of parts with a common beginning of their paths, as deep as gives few enough."""
    for depth in range(_DEEPEST, 0, -1):
        groups: dict[str, float] = {}
        for path, n in parts.items():
            name = ".".join(path.split(".")[:depth])
            groups[name] = groups.get(name, 0.0) + n
        if len(groups) <= _MOST_ROWS:
            break
    ordered = sorted(groups.items(), key=lambda item: -item[1])
    others = sum(n for _, n in ordered[_MOST_ROWS:])
    return {**dict(ordered[:_MOST_ROWS]), **({"all others": others} if others else {})}


def _number(value: Any) -> float | None:
    is_one = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_one and 0 < value < _LARGEST else None
