"""The columns of a table on disk: text with separators as spreadsheets and loggers write it, or Parquet."""

import csv
import io
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from archgrad.data.table_columns import decimal_comma_of, is_missing
from archgrad.errors import DataError, OptionError
from archgrad.json_text import shown, shown_text

TEXT_SUFFIXES = (".csv", ".tsv")
"""How the names of tables of text end."""
PARQUET_SUFFIXES = (".parquet", ".pq")
"""How the names of Parquet files end."""

_SEPARATORS = ",;\t|"
_LOOKED_AT = 50  # lines that tell the separator
_NAMED = 5  # lines that a message names
_MOST_CELL = 2**24  # characters


class Table(NamedTuple):
    """A table as it stands in its file."""

    columns: dict[str, list[Any]]
    """Name: a value a row. Of text files each is a text, else also a number, a truth or a date; None where there is
    none."""
    decimal_comma: bool | None = False
    """Whether its numbers are written with a comma; None where each column tells."""


def is_table(name: str) -> bool:
    """Whether the name of a file is that of a table."""
    return name.lower().endswith((*TEXT_SUFFIXES, *PARQUET_SUFFIXES))


def read_table(path: Path) -> Table:
    """Read a table.

    Args:
        path: A .csv or .tsv with a row of names at its top, separated by commas, semicolons, tabs, bars or blanks, in
            UTF-8, UTF-16 with its mark, or Windows' Latin; or a .parquet, which needs pyarrow.

    Raises:
        DataError: There is no such file, or it is no such table.
        OptionError: pyarrow is missing.
    """
    try:
        if path.name.lower().endswith(PARQUET_SUFFIXES):
            return _read_parquet(path)
        return _read_text(path)
    except OSError as error:
        raise DataError(
            f"The table '{path}' cannot be read: {error}. Check that it is there and may be read."
        ) from error


def _read_parquet(path: Path) -> Table:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise OptionError(
            f"Reading '{path}' needs pyarrow, which is not installed. Install archgrad[tables], or save the table as "
            f"CSV."
        ) from error
    try:
        content = parquet.read_table(path)
    except (ArrowException, ValueError) as error:
        raise DataError(f"The table '{path}' cannot be read: {shown_text(str(error))}. Write it again.") from error
    nested = [
        field.name for field in content.schema if str(field.type).startswith(("list", "struct", "map", "large_l"))
    ]
    if nested:
        raise DataError(
            f"The columns {nested} of '{path}' hold lists or records, not one value a row. Make columns of their parts."
        )
    return Table(named_columns([(name, content.column(name).to_pylist()) for name in content.column_names], path))


def _read_text(path: Path) -> Table:
    text = _decoded(path.read_bytes(), path)
    first, _, rest = text.partition("\n")
    if first.lower().startswith("sep=") and len(first.strip()) == 5:  # a line by which Excel is told the separator
        separator, text = first.strip()[4], rest
    else:
        above = ""
        while text.startswith("#"):  # what a logger says of itself
            above, _, text = text.partition("\n")
        separator = _separator_of(text)
        text = _commented_names(above, text, separator) + text
    try:
        rows = [row for row in _rows(text, separator) if any(cell.strip() for cell in row[1])]
    except csv.Error as error:
        raise DataError(f"The table '{path}' cannot be read: {error}. Is it a table of text?") from error
    if len(rows) < 2:
        raise DataError(f"The table '{path}' has no rows. It needs a row of names, and below it one row a sample.")
    (_, names), body = rows[0], rows[1:]
    while (
        len(names) > 1
        and not names[-1].strip()
        and all(len(row) < len(names) or not row[-1].strip() for _, row in body)
    ):
        names = names[:-1]  # lines that end in a separator
        body = [(line, row[: len(names)]) for line, row in body]
    if odd := [(line, len(row)) for line, row in body if len(row) != len(names)]:
        lines = ", ".join(f"line {line} has {count}" for line, count in odd[:_NAMED])
        raise DataError(
            f"The rows of '{path}' must have as many cells as its first, {len(names)}, but {lines}"
            f"{f' (and {len(odd) - _NAMED} more)' if len(odd) > _NAMED else ''}. Take out lines above the names and "
            f"below the table, and put texts that hold a {_word(separator)} in quotes."
        )
    if all(_looks_like_number(name) for name in names):
        raise DataError(
            f"The first row of '{path}' holds numbers, {names[:_NAMED]}, but must hold the names of the columns. Put "
            f"one above."
        )
    rows_of_values = _without_names(names, [row for _, row in body], path)
    cells = [[cell.strip() or None for cell in column] for column in zip(*rows_of_values, strict=True)]
    comma = decimal_comma_of([cell for column in cells for cell in column if cell is not None])
    if separator == ",":
        comma = comma is True
    return Table(named_columns(list(zip(names, cells, strict=True)), path), decimal_comma=comma)


def _commented_names(above: str, text: str, separator: str) -> str:
    """Return the names that stand behind a # above the numbers, as a line; empty where the table has names itself."""
    first, names = ([*_rows(lines.partition("\n")[0], separator)] for lines in (text, above.lstrip("# ")))
    if not first or not names or len(first[0][1]) != len(names[0][1]) or any(map(_looks_like_number, names[0][1])):
        return ""
    return above.lstrip("# ") + "\n" if any(map(_looks_like_number, first[0][1])) else ""


def _without_names(names: list[str], rows: list[list[str]], path: Path) -> list[list[str]]:
    """Leave out the names where they stand again, as in files that were joined, and units below them; tell of it."""
    kept = [row for row in rows if row != names]
    if len(kept) < len(rows):
        warnings.warn(f"{len(rows) - len(kept)} rows of {path} repeat the names and are left out.", stacklevel=4)
    first, rest = kept[:1], kept[1:]
    if not rest or any(map(_looks_like_number, first[0])):
        return kept
    units = [cell for cell, *below in zip(first[0], *rest, strict=True) if _is_unit(cell, below)]
    if not units:
        return kept
    warnings.warn(
        f"The first row of {path} below the names, with {', '.join(map(shown, units[:_NAMED]))}, is left out, as units "
        f"of numbers.",
        stacklevel=4,
    )
    return rest


def _is_unit(cell: str, below: list[str]) -> bool:
    numbers = [value for value in below if not is_missing(value)]
    return not is_missing(cell) and len(numbers) > 1 and all(map(_looks_like_number, numbers))


def _decoded(content: bytes, path: Path) -> str:
    if b"\0" in content[:4096] and not content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"'{path}' is no table of text: it holds zero bytes. Save it as CSV.")
    encoding = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        return content.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace").replace("\r\n", "\n").replace("\r", "\n")


def _separator_of(text: str) -> str:
    """Return the separator that gives the most cells in each line alike."""
    sample = "\n".join(text.split("\n", _LOOKED_AT)[:_LOOKED_AT])

    def quality(separator: str) -> tuple[int, int]:
        counts = [len(row) for _, row in _rows(sample, separator) if row]
        most = max(set(counts), key=counts.count, default=0)
        return (counts.count(most) * 10 // max(len(counts), 1) if most > 1 else 0, most)

    # A comma may stand in numbers, so that of two that fit as well the one of more cells is not always right.
    best = max(_SEPARATORS, key=quality)
    return best if quality(best)[1] > 1 or quality(" ") < (10, 2) else " "


def _rows(text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (number of the line that a row ends in, its cells)."""
    reader = csv.reader(io.StringIO(text), delimiter=separator, skipinitialspace=True)
    before = csv.field_size_limit(_MOST_CELL)  # of all readers in the process
    try:
        for row in reader:
            yield reader.line_num, row
    finally:
        csv.field_size_limit(before)


def named_columns(columns: Sequence[tuple[Any, list[Any]]], path: Path) -> dict[str, list[Any]]:
    """Return columns by name, where each has one of its own."""
    found: dict[str, list[Any]] = {}
    for number, (given, values) in enumerate(columns, start=1):
        name = " ".join(str(given).split()) or f"column {number}"
        if name in found:
            raise DataError(f"'{path}' has two columns called {shown(name)}. Rename one of them.")
        found[name] = values
    return found


def _looks_like_number(text: str) -> bool:
    try:
        float(text.strip().replace(",", "."))
    except ValueError:
        return False
    return True


def _word(separator: str) -> str:
    return {",": "comma", ";": "semicolon", "\t": "tab", " ": "space"}.get(separator, repr(separator))
