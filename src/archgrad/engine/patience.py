"""When a run ends because what it watches does not get better any more."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from archgrad.errors import OptionError, did_you_mean
from archgrad.json_text import shown
from archgrad.sizes import check_whole

__all__ = ["check_patience", "has_stalled"]

_LOWER = ("loss", "error", "mae", "mse", "rmse", "mape")
"""Last words of the names of what is better the lower it is."""


def check_patience(patience: int | None, watch: str | None) -> None:
    """Refuse a number of epochs below 1, and a column that nobody looks at.

    Raises:
        OptionError: As said.
    """
    if patience is not None:
        check_whole("patience", patience, least=1)
    if watch is not None and patience is None:
        raise OptionError(f"watch={shown(watch)} says what patience looks at, but there is none. Give patience.")


def has_stalled(
    history: Sequence[Mapping[str, Any]], *, patience: int, watch: str, directions: Mapping[str, str] = {}
) -> bool:
    """Return whether the last epochs brought nothing better.

    It follows from the rows alone, so that a run that was interrupted ends where it would have ended.

    Args:
        history: One row an epoch; those in which the column is empty do not count, and one that is not a number is
            never better.
        patience: How many such epochs end a run.
        watch: The column.
        directions: Metric, which the column is called after behind "train_", "valid_" or "test_" -> whether its
            "highest" or its "lowest" value is best; of others the last word of their names tells.

    Raises:
        OptionError: There is no such column.
    """
    if watch not in history[-1]:
        columns = [name for name, value in history[-1].items() if isinstance(value, int | float) and name != "epoch"]
        hint = did_you_mean(watch, columns)
        raise OptionError(f"The run has no column {shown(watch)} to watch.{hint} It has {', '.join(columns)}.")
    by_name = "lowest" if watch.split("_")[-1] in _LOWER else "highest"
    sign = -1.0 if directions.get(watch.partition("_")[2], by_name) == "lowest" else 1.0
    values = [sign * float(row[watch]) for row in history if row.get(watch) is not None]
    best, last = -math.inf, 0
    for number, value in enumerate(values, start=1):
        if value > best:
            best, last = value, number
    return len(values) - last >= patience
