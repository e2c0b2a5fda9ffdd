"""Results and rows of a study as CSV and as Markdown."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any, get_type_hints

from archgrad.errors import DataError
from archgrad.json_text import shown
from archgrad.study.judging import Point, Result
from archgrad.study.summary import Row

__all__ = ["HEAD", "cells_of", "from_csv", "to_csv", "to_markdown"]


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
    kinds = get_type_hints(Result)
    results = []
    for row in csv.DictReader(io.StringIO(text)):
        try:
            results.append(Result(**{name: _read(kinds[name], row[name]) for name in kinds}))
        except (KeyError, ValueError, TypeError) as error:
            raise DataError(f"A row of results is broken ({shown(row)}): {error}. Take an intact copy.") from None
    return results


def _read(kind: Any, cell: str) -> Any:
    if kind is str:
        return cell
    if kind in (int, float):
        return kind(cell)
    return None if cell == "" else int(cell) if kind == int | None else float(cell)


def to_markdown(rows: Sequence[Row]) -> str:
    """Return a table for each space, data set and judge, methods by their mean, the best first."""
    parts = []
    for place in dict.fromkeys((row.space, row.data, row.judge) for row in rows):
        own = sorted((r for r in rows if (r.space, r.data, r.judge) == place), key=lambda row: -row.mean)
        lines = [f"### {place[0]}, {place[1]}, judged by {place[2]}", ""]
        lines += [_line(HEAD), _line(["---"] + ["---:"] * (len(HEAD) - 1))]
        lines += [_line(cells_of(row)) for row in own]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


HEAD = (
    "method", "n", "mean %", "± sd", "95 % interval", "worst", "best", "gain over random", "agreement",
    "search min", "select min", "train min", "parameters",
)  # fmt: skip


def cells_of(row: Row) -> list[str]:
    """Return a row's cells as text, in the order of the table's head."""
    interval = "" if math.isnan(row.low) else f"{row.low:.2f} to {row.high:.2f}"
    return [
        row.method,
        str(row.n),
        f"{row.mean:.2f}",
        _text(row.deviation),
        interval,
        f"{row.worst:.2f}",
        f"{row.best:.2f}",
        "" if math.isnan(row.gain) else f"{row.gain:+.2f}",
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
