"""Results and rows of a study as CSV and as Markdown."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from archgrad.study.judging import Point, Result
from archgrad.study.place import Place
from archgrad.study.records import read_records
from archgrad.study.summary import Row

__all__ = ["from_csv", "table_of", "to_csv", "to_markdown"]

_WHERE_TOLD = ("below the best", "keep budget")
"""Columns that are left out where they are empty."""


def to_csv(records: Sequence[Result] | Sequence[Point] | Sequence[Row]) -> str:
    """Return records as CSV with a header, an empty cell where there is no value."""
    text = io.StringIO()
    if records:
        writer = csv.DictWriter(text, [each.name for each in fields(records[0])], lineterminator="\n")
        writer.writeheader()
        for record in records:
            values = asdict(record)
            writer.writerow({name: _cell(value) for name, value in values.items()})
    return text.getvalue()


def _cell(value: Any) -> Any:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else value


def from_csv(text: str) -> list[Result]:
    """Read results that `to_csv` wrote.

    Raises:
        DataError: A row is broken.
    """
    return read_records(Result, text, of="results")


def to_markdown(rows: Sequence[Row]) -> str:
    """Return a table for each space, data set and judge, methods by their mean, the best first."""
    parts = []
    for place in dict.fromkeys(row.place for row in rows):
        lower = ", lower is better" if place.best_is == "lowest" else ""
        head, cells = table_of([row for row in rows if row.place == place])
        lines = [f"### {place.space}, {place.data}, judged by {place.judge}{lower}", ""]
        lines += [_line(head), _line(["---"] + ["---:"] * (len(head) - 1))]
        lines += [_line(row) for row in cells]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def table_of(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Return the head of a place's table and its cells as text, methods by their mean, the best first.

    Args:
        rows: Of one space, data set and judge, at least one.
    """
    head, place = _head(rows[0]), rows[0]
    cells = [_cells(row) for row in sorted(rows, key=lambda row: -place.merit(row.mean))]
    shown = [k for k, name in enumerate(head) if name not in _WHERE_TOLD or any(row[k] for row in cells)]
    return [head[k] for k in shown], [[row[k] for k in shown] for row in cells]


def _head(place: Place) -> tuple[str, ...]:
    return (
        "method", "n", f"mean {place.short}", "± sd", "95 % interval", "worst", "best", "gain over random",
        *_WHERE_TOLD, "agreement", "search min", "select min", "train min", "parameters",
    )  # fmt: skip


def _cells(row: Row) -> list[str]:
    interval = "" if math.isnan(row.low) else f"{row.text(row.low)} to {row.text(row.high)}"
    return [
        row.method,
        str(row.n),
        row.text(row.mean),
        row.text(row.deviation),
        interval,
        row.text(row.worst),
        row.text(row.best),
        row.text(row.gain, sign="+"),
        row.text(row.regret),
        "" if math.isnan(row.keeping) else f"{row.keeping:.0f} of {row.n}",
        _text(row.agreement),
        _text(row.search_minutes),
        _text(row.selection_minutes) if row.selection_minutes else "",
        _text(row.train_minutes),
        "" if math.isnan(row.parameters) else f"{row.parameters:,.0f}",
    ]


def _text(value: float, digits: int = 2) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
