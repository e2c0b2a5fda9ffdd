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

__all__ = ["cells_of", "from_csv", "head_of", "to_csv", "to_markdown"]


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
        own = sorted((row for row in rows if row.place == place), key=lambda row: -row.merit(row.mean))
        lower = ", lower is better" if place.best_is == "lowest" else ""
        head = head_of(place)
        lines = [f"### {place.space}, {place.data}, judged by {place.judge}{lower}", ""]
        lines += [_line(head), _line(["---"] + ["---:"] * (len(head) - 1))]
        lines += [_line(cells_of(row)) for row in own]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def head_of(place: Place) -> tuple[str, ...]:
    """Return the head of a place's table."""
    return (
        "method", "n", f"mean {place.short}", "± sd", "95 % interval", "worst", "best", "gain over random", "agreement",
        "search min", "select min", "train min", "parameters",
    )  # fmt: skip


def cells_of(row: Row) -> list[str]:
    """Return a row's cells as text, in the order of the table's head."""
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
