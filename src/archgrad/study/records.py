"""Dataclasses from the rows of a CSV file."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any, Literal, TypeVar, get_origin, get_type_hints

from archgrad.errors import ArchgradError, DataError
from archgrad.json_text import shown

__all__ = ["BETWEEN", "read_records"]

BETWEEN = ";"
"""What stands between several numbers in one cell."""
T = TypeVar("T")


def read_records(kind: Callable[..., T], text: str, *, of: str) -> list[T]:
    """Read a dataclass from each row; a column that is not there has its default, as files of before have fewer.

    Args:
        kind: A dataclass of texts, numbers and tuples of numbers.
        text: CSV with a header.
        of: What the rows belong to, for messages.

    Raises:
        DataError: A row is broken.
    """
    kinds = get_type_hints(kind)
    optional = {each.name for each in fields(kind) if each.default is not MISSING}  # type: ignore[arg-type]
    records = []
    for row in csv.DictReader(io.StringIO(text)):
        try:
            names = [name for name in kinds if name in row or name not in optional]
            records.append(kind(**{name: _read(kinds[name], row[name]) for name in names}))
        except (KeyError, ValueError, TypeError, ArchgradError) as error:
            raise DataError(f"A row of {of} is broken ({shown(row)}): {error}. Take an intact copy.") from None
    return records


def _read(kind: Any, cell: str) -> Any:
    if kind is str or get_origin(kind) is Literal:
        return cell
    if kind == tuple[float, ...]:
        return tuple(float(each) for each in cell.split(BETWEEN) if each)
    if kind in (int, float):
        return kind(cell)
    return None if cell == "" else int(cell) if kind == int | None else float(cell)
