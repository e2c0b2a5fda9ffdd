"""One row per epoch in a CSV file: appended and flushed to the disk, cut back on resume, readable while it grows."""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Mapping
from pathlib import Path

from archgrad.errors import OptionError, RunError
from archgrad.files import Guard, append, atomic_write, disk_error, read_file
from archgrad.json_text import shown

__all__ = ["MetricsFile", "Value", "check_column", "fields_of", "lines_of", "read_metrics"]

Value = float | int | str | None
"""What a cell holds; None is written as an empty cell."""

_KEY = "epoch"
_LONGEST_NAME = 200
_MAX_BYTES = 256 * 1024 * 1024
_MAX_DIGITS = 100  # an integer of more is read as a float, as some of its readers would overflow


def check_column(name: str) -> None:
    """Refuse the name of a metric that cannot stand at the head of a column.

    Raises:
        OptionError: It is empty, longer than 200 characters, or has characters that are not printable, such as line
            breaks.
    """
    if not isinstance(name, str) or not 1 <= len(name) <= _LONGEST_NAME or not name.isprintable():
        raise OptionError(
            f"The name of a metric must be 1 to {_LONGEST_NAME} printable characters, without line breaks, as it heads "
            f"a column of metrics.csv, but got {shown(name)}. Rename the metric."
        )


class MetricsFile:
    """An append-only CSV file with the column `epoch` and whatever else its first row has.

    Floats are written so that they read back exactly. One process at a time writes (the run's lock sees to that); any
    number may read.

    Args:
        path: The file; created by the first `append`.
        guard: Asked before each change, as in `archgrad.files.atomic_write`.
    """

    def __init__(self, path: Path, *, guard: Guard | None = None) -> None:
        self.path = path
        self._guard = guard
        self._columns: list[str] | None = None

    def append(self, row: Mapping[str, Value]) -> None:
        """Add one row, and return when it is on the disk.

        Args:
            row: Column to value; the first row of the file sets the columns, all others have the same.

        Raises:
            RunError: The columns differ from the file's, or the disk is full or read-only.
            OptionError: A name cannot stand at the head of a column.
        """
        for name in row:
            check_column(name)
        if _KEY not in row:
            raise RunError(f"A row of '{self.path}' needs the column '{_KEY}', but has {list(row)}.")
        if self._columns is None:
            lines = _complete_lines(_content(self.path))
            self._columns = fields_of(lines[0]) if lines else None
        text = ""
        if self._columns is None:
            self._columns = list(row)
            text = _line(self._columns)
        if set(self._columns) != set(row):
            raise RunError(
                f"'{self.path}' has the columns {shown(self._columns)}, but the row has {shown(list(row))}. Resume "
                f"with the metrics that the run was started with."
            )
        text += _line([_cell(row[column]) for column in self._columns])
        try:
            append(self.path, text.encode("utf-8", "backslashreplace"), guard=self._guard)
        except OSError as error:
            raise disk_error(error, self.path, doing="write") from error

    def truncate(self, *, epochs: int) -> None:
        """Keep the rows of the first epochs only, because those after the checkpoint are computed again.

        A row that a crash cut short goes too. The file is replaced atomically; kept rows stay byte for byte.

        Args:
            epochs: How many epochs to keep, at least 0.

        Raises:
            RunError: The file has no column `epoch`, or the disk is full or read-only.
        """
        content = _content(self.path)
        lines = _complete_lines(content)
        if not lines:
            kept: list[str] = []
        else:
            columns = fields_of(lines[0])
            if _KEY not in columns:
                raise RunError(
                    f"'{self.path}' has no column '{_KEY}'; it was not written by archgrad. Remove it to go on."
                )
            position = columns.index(_KEY)
            kept = [line for line in lines[1:] if _epoch(fields_of(line), position, len(columns)) in range(epochs)]
            kept = [lines[0], *kept] if kept else []
        if len(kept) != (epochs + 1 if epochs else 0):
            warnings.warn(
                f"'{self.path}' has {max(len(kept) - 1, 0)} of the {epochs} epochs before the checkpoint; the others' "
                f"rows are lost.",
                UserWarning,
                stacklevel=2,
            )
        self._columns = None
        wanted = "".join(kept).encode("utf-8")
        if content is None or content == wanted:
            return
        with atomic_write(self.path, guard=self._guard) as file:
            file.write(wanted)

    def rows(self) -> list[dict[str, Value]]:
        """Return the complete rows; see `read_metrics`."""
        return read_metrics(self.path)


def read_metrics(path: Path) -> list[dict[str, Value]]:
    """Read a metrics file, also one that is still growing or broke off: rows that are cut short are left out.

    Returns:
        One dict per row: int where a cell is an integer, float where it is another number, None where it is empty, else
        str. Empty when the file is missing.

    Raises:
        RunError: The file cannot be read.
    """
    lines = _complete_lines(_content(path))
    if not lines:
        return []
    columns = fields_of(lines[0])
    rows = [row for row in map(fields_of, lines[1:]) if len(row) == len(columns)]
    return [{column: _value(cell) for column, cell in zip(columns, row, strict=True)} for row in rows]


def _content(path: Path) -> bytes | None:
    try:
        return read_file(path, most=_MAX_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise disk_error(error, path, doing="read") from error


def _complete_lines(content: bytes | None) -> list[str]:
    return lines_of((content or b"").decode("utf-8", errors="replace"))


def lines_of(text: str) -> list[str]:
    """Return the complete lines of a text with their ends: only what `append` writes as a line's end is one."""
    return [f"{line}\n" for line in text.split("\n")[:-1]]


def fields_of(line: str) -> list[str]:
    """Return the cells of a line; none where it is damaged."""
    try:
        return next(csv.reader([line]), [])
    except csv.Error:  # a stray quote or NUL in a line that was damaged; such a line has no fields
        return []


def _line(cells: list[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    return buffer.getvalue()


def _cell(value: Value) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return repr(float(value))
    text = str(value)
    # A line is a row, for this reader and for `tail -f`.
    return " ".join(text.splitlines()) if isinstance(value, str) else text


def _value(cell: str) -> Value:
    if not cell:
        return None
    for kind in (int, float) if len(cell) <= _MAX_DIGITS else (float,):
        try:
            return kind(cell)
        except ValueError:
            continue
    return cell


def _epoch(cells: list[str], position: int, columns: int) -> int:
    if len(cells) != columns:
        return -1
    try:
        return int(cells[position])
    except ValueError:
        return -1
