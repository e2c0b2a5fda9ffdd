"""The columns of a table that a study judges by: accuracies, and costs, of which the lowest is best."""

from __future__ import annotations

from typing import Any

from archgrad.errors import OptionError
from archgrad.nasbench import Table, unit_of
from archgrad.study.study_file import Judge

__all__ = ["columns_of", "is_cost", "place_of_column"]


def is_cost(column: str) -> bool:
    """Return whether a column of a table is a cost, and no accuracy in percent."""
    return unit_of(column) != "%"


def columns_of(judge: Judge, table: Table) -> tuple[str, ...]:
    """Return the columns that a table judges by: those that the study names, else all accuracies.

    Raises:
        OptionError: The table does not have one.
    """
    for column in judge.columns:
        if column not in table.columns:
            raise OptionError(f"{judge.table} has no column {column!r}. It has {', '.join(table.columns)}.")
    return judge.columns or tuple(column for column in table.columns if not is_cost(column))


def place_of_column(judge: Judge, column: str) -> dict[str, Any]:
    """Return what the scores of a table's column are, as a `Place` has it."""
    name = f"{judge.name} {column}"
    if not is_cost(column):
        return {"judge": name}
    return {"judge": name, "metric": column, "unit": unit_of(column), "best_is": "lowest"}
