"""How the rows of a table become inputs: numbers standardised, categories in inputs of their own."""

import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from archgrad.checks import check_real
from archgrad.data.listing import is_image
from archgrad.data.table_columns import Column, read_column
from archgrad.data.table_file import Table, read_table
from archgrad.errors import DataError, OptionError
from archgrad.json_text import shown

NAMES_SHARE = 0.5
"""Share of different texts from which on a column is names or sentences, of which nothing can be learnt so."""
_MOST_CATEGORIES = 50
"""Most categories of a column that get an input each; the rarer ones share one."""
_SMALLEST_DEVIATION = 1e-12
_NAMES_OF_COUNTS = frozenset(
    ("unnamed: 0", "__index_level_0__", "index", "id", "row", "rowid", "row_id", "rownames", "nr", "no.")
)
"""What a column of numbers of the rows is called, of which some may be missing."""


@dataclass(frozen=True)
class _Number:
    """A column of numbers as inputs: standardised, and whether it is missing where that occurs."""

    name: str
    mean: float
    std: float
    may_be_missing: bool

    @property
    def inputs(self) -> list[str]:
        return [self.name, *([f"{self.name} is missing"] if self.may_be_missing else [])]

    def encoded(self, column: Column) -> np.ndarray:
        if column.numbers is None:
            raise DataError(f"The column {shown(self.name)} must hold numbers, as the first table's, but holds names.")
        gone = np.isnan(column.numbers)
        values = np.where(gone, 0.0, (column.numbers - self.mean) / self.std)
        return np.stack([values, gone] if self.may_be_missing else [values], 1)

    def measured_on(self, measured: Tensor, inputs: Tensor) -> Tensor:
        """See the function of that name; both are of this column alone."""
        gone, other_gone = (each[:, 1:].bool().any(1) for each in (measured, inputs))
        values = measured[~gone, 0].double()
        std = float(values.std(correction=0)) if len(values) else 0.0
        shifted = (inputs[:, 0].double() - values.mean()) / (std if std > _SMALLEST_DEVIATION else 1.0)
        shifted = torch.where(other_gone | (len(values) == 0), 0.0, shifted)
        return torch.cat([shifted[:, None].to(inputs), inputs[:, 1:] * bool(gone.any())], 1)


@dataclass(frozen=True)
class _Category:
    """A column of names as inputs: one for each category."""

    name: str
    categories: tuple[str, ...]
    other: bool
    """Whether there are rarer ones, which share an input."""

    @property
    def inputs(self) -> list[str]:
        return [f"{self.name}={each}" for each in self.categories] + ([f"{self.name}=other"] if self.other else [])

    def encoded(self, column: Column) -> np.ndarray:
        names = column.names
        if names is None:  # all of them look like numbers
            assert column.numbers is not None
            names = [None if np.isnan(value) else f"{value:g}" for value in column.numbers]
        place = {name: number for number, name in enumerate(self.categories)}
        encoded = np.zeros((len(names), len(self.inputs)))
        for row, name in enumerate(names):
            number = place.get(name, len(self.categories) if self.other else -1) if name is not None else -1
            if number >= 0:
                encoded[row, number] = 1.0
        return encoded

    def measured_on(self, measured: Tensor, inputs: Tensor) -> Tensor:
        """See the function of that name; both are of this column alone."""
        seen = measured.any(0)
        made = inputs * seen
        if self.other and seen[-1]:
            made[:, -1] += inputs[:, ~seen].sum(1)
        return made


@dataclass(frozen=True)
class TableEncoding:
    """How the rows of a table become inputs; what it holds was measured on the training rows alone."""

    columns: tuple[_Number | _Category, ...]

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        return tuple(name for column in self.columns for name in column.inputs)

    def encode(self, table: str | Path | Table) -> Tensor:
        """Return the inputs (N, inputs), float32, of a table's rows, such as new ones to be predicted.

        Args:
            table: One with the same columns; others are left out.

        Raises:
            DataError: A column is missing, or of another kind.
        """
        table = table if isinstance(table, Table) else read_table(Path(table))
        if gone := [column.name for column in self.columns if column.name not in table.columns]:
            raise DataError(f"The table lacks the columns {gone}, which the network learnt from.")
        return self.encoded({column.name: read_one(table, column.name) for column in self.columns})

    def to_plain(self) -> list[dict[str, Any]]:
        """Return it as plain data, a dict for each column, as files of models hold it."""
        return [asdict(column) for column in self.columns]

    @classmethod
    def from_plain(cls, plain: Any) -> "TableEncoding":
        """Return the encoding that `to_plain` gave.

        Args:
            plain: Of anyone's making.

        Raises:
            OptionError: It is none.
        """
        if not isinstance(plain, list) or not plain:
            raise OptionError(f"The columns of a table must be a list of at least one, but are {shown(plain)}.")
        return cls(tuple(map(_column_of, plain)))

    def encoded(self, columns: Mapping[str, Column]) -> Tensor:
        """Return the same of columns that are read."""
        parts = [column.encoded(columns[column.name]) for column in self.columns]
        return torch.from_numpy(np.concatenate(parts, 1)).float()


def measured_on(encoding: TableEncoding, measured: Tensor, inputs: Tensor) -> Tensor:
    """Return inputs of a table as if nothing but some rows had been measured; there are as many.

    Args:
        encoding: That made the inputs.
        measured: (n, inputs), of the rows that are measured.
        inputs: (N, inputs), of any rows.

    Returns:
        (N, inputs). Numbers have mean and deviation of those rows; where none of them lacks one, what is missing is the
        mean. A category that none of them has is a rare one where they have rare ones, and else none.
    """
    made, place = inputs.clone(), 0
    for column in encoding.columns:
        own = slice(place, place + len(column.inputs))
        made[:, own] = column.measured_on(measured[:, own], inputs[:, own])
        place = own.stop
    return made


def _column_of(plain: Any) -> _Number | _Category:
    keys = set(plain) if isinstance(plain, Mapping) else None
    if keys == {each.name for each in fields(_Number)}:
        number = _Number(**plain)
        if isinstance(number.name, str) and isinstance(number.may_be_missing, bool):
            check_real("The mean of a column", number.mean, above=-math.inf)
            check_real("The deviation of a column", number.std, above=0)
            return number
    if keys == {each.name for each in fields(_Category)} and isinstance(plain["categories"], list | tuple):
        category = _Category(plain["name"], tuple(plain["categories"]), plain["other"])
        texts = (category.name, *category.categories)
        if len(texts) > 1 and all(isinstance(text, str) for text in texts) and isinstance(category.other, bool):
            return category
    raise OptionError(f"A column of a table is numbers with mean and deviation, or categories; but got {shown(plain)}.")


def read_one(table: Table, name: str) -> Column:
    """Read a column of a table."""
    return read_column(name, table.columns[name], decimal_comma=table.decimal_comma)


def measured_encoding(columns: Sequence[Column], rows: np.ndarray, path: Path) -> TableEncoding:
    """Measure each column on the training rows; those that nothing can be learnt from are told of.

    Args:
        columns: That are to be inputs.
        rows: (n,) numbers of the training rows.
        path: For messages.

    Raises:
        DataError: Nothing can be learnt from any of them.
    """
    found: list[_Number | _Category] = []
    left_out: dict[str, str] = {}
    for column in columns:
        reason, encoding = _encoding(column, rows)
        if encoding is None:
            left_out[column.name] = reason
        else:
            found.append(encoding)
    told = ", ".join(f"{shown(name)} ({reason})" for name, reason in left_out.items())
    if left_out:
        warnings.warn(f"Columns of {path} are left out: {told}.", stacklevel=4)
    if not found:
        raise DataError(
            f"'{path}' has no column to learn from: {told or 'there is none but the target'}. Give a table with "
            f"numbers or categories."
        )
    return TableEncoding(tuple(found))


def _encoding(column: Column, rows: np.ndarray) -> tuple[str, _Number | _Category | None]:
    missing = bool(column.missing()[rows].any())
    if column.numbers is not None:
        values = column.numbers[rows]
        present = values[~np.isnan(values)]
        if len(present) == 0 or (present.max() == present.min() and not missing):
            return "one value" if len(present) else "no values", None
        if _is_running(column):
            return "running numbers", None
        std = float(present.std())
        return "", _Number(column.name, float(present.mean()), std if std > _SMALLEST_DEVIATION else 1.0, missing)
    assert column.names is not None
    counts = Counter(name for row in rows if (name := column.names[row]) is not None)
    if len(counts) < 2 and not (counts and missing):
        return "one value" if counts else "no values", None
    if all(map(is_image, counts)):
        return "names of image files, which a table does not read; give images as folder:PATH", None
    if len(counts) > max(NAMES_SHARE * sum(counts.values()), 2):
        return f"{len(counts)} different texts in {len(rows)} rows", None
    common = [name for name, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_MOST_CATEGORIES]]
    return "", _Category(column.name, tuple(sorted(common)), len(counts) > _MOST_CATEGORIES)


def _is_running(column: Column) -> bool:
    """Whether a column only counts the rows, in any order, or all others by its name; that tells where a row stood."""
    numbers = column.numbers
    if numbers is None or column.dates or len(numbers) < 3:
        return False
    steps = np.diff(np.sort(numbers))
    counts = bool((steps == 1).all()) and float(numbers.min()) in (0.0, 1.0)
    return counts or (column.name.lower() in _NAMES_OF_COUNTS and bool((steps >= 1).all() and (steps % 1 == 0).all()))
