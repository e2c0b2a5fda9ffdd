"""What costs of networks are called, and what they are counted in."""

from __future__ import annotations

__all__ = ["COSTS", "MEASURED", "unit_of_cost"]

COSTS = ("multiply-adds", "parameters", "activations", "latency")
"""What networks cost (see `archgrad.ExpectedCost`): numbers of things, and latency in milliseconds."""
MEASURED = {"_ms": "ms", "_mj": "mJ"}
"""What names of a table's columns end with -> their unit (see `archgrad.table_cost`)."""


def unit_of_cost(cost: str) -> str:
    """Return the unit of a cost, "ms" or "mJ"; empty for a number of things."""
    return "ms" if cost == "latency" else MEASURED.get(cost[-3:], "")
