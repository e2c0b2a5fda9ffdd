"""What is odd in a table though it can be read: told, and left as it is."""

import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from archgrad.data.table_columns import Column
from archgrad.json_text import shown

_FEWEST = 20
"""Rows from which on an order is hardly chance."""
_STAND_INS = (-99.0, -999.0, -9999.0, -99999.0, -32768.0, 999.0, 9999.0, 99999.0)
"""Numbers that loggers and surveys write for what is missing."""


def tell_stand_ins(columns: Iterable[Column], path: Path) -> None:
    """Tell of numbers that may stand for what is missing: several of one that is far from all others."""
    for column in columns:
        if column.numbers is None or column.dates:
            continue
        numbers = column.numbers[~np.isnan(column.numbers)]
        for number in (float(numbers.min()), float(numbers.max())) if len(numbers) else ():
            same = numbers == number
            others = np.abs(numbers[~same])
            if number in _STAND_INS and same.sum() > 1 and len(others) and 2 * others.max() < abs(number):
                warnings.warn(
                    f"The column {shown(column.name)} of {path} holds {number:g} in {same.sum()} of {len(same)} rows, "
                    f"far from all others. If it stands for what is missing, leave the cells empty.",
                    stacklevel=4,
                )


def tell_orders(columns: Iterable[Column], path: Path) -> None:
    """Tell of inputs that rise or fall from each row to the next, as times do that nothing is split by."""
    ordered = []
    for column in columns:
        if column.numbers is not None and len(column.numbers) >= _FEWEST:
            steps = np.diff(column.numbers)
            if bool((steps > 0).all()) or bool((steps < 0).all()):
                ordered.append(column.name)
    if ordered:
        warnings.warn(
            f"The columns {ordered} of {path} change one way from row to row, as times and numbers of rows do. As the "
            f"rows are split at random, they tell where a row stands. Split by one with time=... (--time), or take "
            f"them out.",
            stacklevel=4,
        )
