"""A table with a column that is to be predicted, as data: numbers standardised, categories in columns of their own."""

import difflib
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from archgrad.checks import check_real, check_word
from archgrad.data.dataset import Data
from archgrad.data.samples import TensorSamples
from archgrad.data.split import grouped_halves, numbered_groups, numbered_times, ordered_halves, stratified_halves
from archgrad.data.table_columns import Column, read_column
from archgrad.data.table_file import Table, read_table
from archgrad.errors import DataError, OptionError
from archgrad.json_text import shown

Kind = Literal["classification", "regression"]

_MOST_CLASSES = 20
"""Most different whole numbers that are taken as classes."""
_MOST_CATEGORIES = 50
"""Most categories of a column that get an input each; the rarer ones share one."""
_NAMES_SHARE = 0.5
"""Share of different texts from which on a column is names or sentences, of which nothing can be learnt so."""
_SMALLEST_DEVIATION = 1e-12


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
        return self._of({column.name: _read(table, column.name) for column in self.columns})

    def _of(self, columns: Mapping[str, Column]) -> Tensor:
        parts = [column.encoded(columns[column.name]) for column in self.columns]
        return torch.from_numpy(np.concatenate(parts, 1)).float()


def load_table(
    path: Path,
    *,
    target: str | None,
    task: Kind | None = None,
    group: str | None = None,
    time: str | None = None,
    test_fraction: float = 0.2,
) -> Data:
    """Load a table: one row a sample, one column the target, all others inputs.

    A column of numbers becomes an input of mean 0 and deviation 1, and a second one that says where it is missing, if
    it is anywhere; one of names becomes an input for each of its 50 commonest. Means, deviations and categories are
    those of the training rows, whatever the test rows hold. What cannot be learnt from (one value, running numbers,
    texts that are nearly all different) is left out with a warning.

    Args:
        path: Of a .csv, .tsv or .parquet file.
        target: Column that is to be predicted, or several columns of numbers with commas between.
        task: "classification" or "regression"; by default classes where the target holds names, truths, or at most 20
            different whole numbers.
        group: Column that tells whom or what each row comes from: no group is in two parts. It is no input.
        time: Column that tells when each row was taken: the test rows are the latest, and the alphas of a search learn
            from the latest of the others. It is no input.
        test_fraction: Share of the rows for the test set, from 0, which is none, to below 1.

    Returns:
        The data, with inputs (F,) float32.

    Raises:
        DataError: The file cannot be read, has no such column, or nothing to learn from.
        OptionError: An option is missing or outside its range.
    """
    if task is not None:
        check_word("task", task, ("classification", "regression"))
    check_real("test_fraction", test_fraction, below=1)
    if group is not None and time is not None:
        raise OptionError("Rows are split by group or by time, but got both. Give one of them.")
    table = read_table(path)
    targets = _target_columns(table, target, path)
    for name in (group, time):
        _check_column(name, table, path)
    columns = {name: _read(table, name) for name in table.columns}
    rows = _rows_with(targets, columns, path)
    values, classes = _target_values([columns[name] for name in targets], rows, task)

    chosen = group or time
    order = None if chosen is None else columns[chosen]
    train, test = _split(values, order, rows, by_time=time is not None, fraction=test_fraction)
    inputs = [column for name, column in columns.items() if name not in (*targets, group, time)]
    encoding = TableEncoding(tuple(_encodings(inputs, rows[train], path)))
    encoded = encoding._of(columns)[torch.from_numpy(rows)]
    kept = None if order is None else _order_of(order, rows[train], by_time=time is not None)
    return Data(
        name=str(path),
        train=TensorSamples(encoded[train], values[train]),
        test=TensorSamples(encoded[test], values[test]) if len(test) else None,
        classes=classes,
        in_features=encoded.shape[1],
        encoding=encoding,
        **({} if kept is None else {"times" if time is not None else "groups": kept}),
    )


def _read(table: Table, name: str) -> Column:
    return read_column(name, table.columns[name], decimal_comma=table.decimal_comma)


def _target_columns(table: Table, target: str | None, path: Path) -> list[str]:
    if target is None:
        raise OptionError(
            f"The table '{path}' needs a column that is to be predicted. Give target=... (on the command line --target), "
            f"one of {', '.join(table.columns)}."
        )
    names = [target] if target in table.columns else [name.strip() for name in target.split(",")]
    for name in names:
        _check_column(name, table, path)
    return names


def _check_column(name: str | None, table: Table, path: Path) -> None:
    if name is not None and name not in table.columns:
        near = difflib.get_close_matches(name, table.columns, n=1, cutoff=0.5)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise DataError(f"'{path}' has no column {shown(name)}.{hint} It has {', '.join(table.columns)}.")


def _rows_with(targets: list[str], columns: Mapping[str, Column], path: Path) -> np.ndarray:
    """Return the numbers of the rows that have a target."""
    gone = np.stack([columns[name].missing() for name in targets]).any(0)
    if gone.all():
        raise DataError(f"No row of '{path}' has a value in {', '.join(targets)}. Give another target.")
    if gone.any():
        warnings.warn(f"{gone.sum()} of {len(gone)} rows of {path} have no target and are left out.", stacklevel=3)
    return np.flatnonzero(~gone)


def _target_values(targets: list[Column], rows: np.ndarray, task: Kind | None) -> tuple[Tensor, tuple[str, ...]]:
    """Return (rows,) int64 class numbers and their names, or (rows,) or (rows, targets) float32 values and none."""
    if len(targets) > 1 or task == "regression":
        if names := [column.name for column in targets if column.numbers is None]:
            raise DataError(f"Values to be predicted must be numbers, but {names} hold names. Give one target of names.")
        stacked = np.stack([column.numbers[rows] for column in targets if column.numbers is not None], 1)
        values = torch.from_numpy(stacked).float()
        return (values if len(targets) > 1 else values[:, 0]), ()
    (target,) = targets
    if target.numbers is None:
        assert target.names is not None
        names = [str(target.names[row]) for row in rows]
        classes = sorted(set(names))
        if len(classes) > _NAMES_SHARE * len(rows):
            raise DataError(
                f"The target {shown(target.name)} has {len(classes)} different texts in {len(rows)} rows, such as "
                f"{shown(names[0])}, which are no classes. Give another target."
            )
        number = {name: place for place, name in enumerate(classes)}
        return torch.tensor([number[name] for name in names]), tuple(classes)
    numbers = target.numbers[rows]
    distinct = np.unique(numbers)
    whole = bool((distinct == np.round(distinct)).all()) and not target.dates
    if task == "classification" or (whole and len(distinct) <= min(_MOST_CLASSES, _NAMES_SHARE * len(rows))):
        return torch.from_numpy(np.searchsorted(distinct, numbers)).long(), tuple(f"{value:g}" for value in distinct)
    return torch.from_numpy(numbers).float(), ()


def _split(
    values: Tensor, order: Column | None, rows: np.ndarray, *, by_time: bool, fraction: float
) -> tuple[Tensor, Tensor]:
    """Return the numbers, among the rows with a target, of those for training and for the test."""
    if not fraction:
        return torch.arange(len(rows)), torch.zeros(0, dtype=torch.int64)
    if order is None:
        first, second = stratified_halves(values, fraction=1 - fraction, seed=0)
    elif by_time:
        first, second = ordered_halves(_order_of(order, rows, by_time=True), fraction=1 - fraction)
    else:
        groups = _order_of(order, rows, by_time=False)
        first, second = grouped_halves(values, groups, fraction=1 - fraction, seed=0)
    return first.sort().values, second.sort().values


def _order_of(column: Column, rows: np.ndarray | Tensor, *, by_time: bool) -> Tensor:
    rows = np.asarray(rows)
    if column.missing()[rows].any():
        raise DataError(f"The column {shown(column.name)} has rows without a value, which belong to no part. Fill them.")
    if by_time and column.numbers is None:
        raise DataError(
            f"The column {shown(column.name)} must hold numbers or dates such as 2024-05-31 12:00 to tell the order, but "
            f"holds {shown(column.distinct()[0])}. Write them so."
        )
    values = column.numbers if column.numbers is not None else np.array(column.names)
    chosen = values[rows]
    return numbered_times(chosen, len(rows)) if by_time else numbered_groups(chosen, len(rows))


def _encodings(columns: Sequence[Column], rows: np.ndarray, path: Path) -> list[_Number | _Category]:
    """Measure each column on the training rows; those that nothing can be learnt from are told of."""
    found: list[_Number | _Category] = []
    left_out: dict[str, str] = {}
    for column in columns:
        reason, encoding = _encoding(column, rows)
        if encoding is None:
            left_out[column.name] = reason
        else:
            found.append(encoding)
    if left_out:
        told = ", ".join(f"{shown(name)} ({reason})" for name, reason in left_out.items())
        warnings.warn(f"Columns of {path} are left out: {told}.", stacklevel=4)
    if not found:
        raise DataError(f"'{path}' has no column to learn from. Give a table with numbers or categories.")
    return found


def _encoding(column: Column, rows: np.ndarray) -> tuple[str, _Number | _Category | None]:
    missing = bool(column.missing().any())
    if column.numbers is not None:
        values = column.numbers[rows]
        present = values[~np.isnan(values)]
        if len(present) == 0 or (present.max() == present.min() and not missing):
            return "one value" if len(present) else "no values", None
        if _is_running(column.numbers):
            return "running numbers", None
        std = float(present.std())
        return "", _Number(column.name, float(present.mean()), std if std > _SMALLEST_DEVIATION else 1.0, missing)
    assert column.names is not None
    counts = Counter(name for row in rows if (name := column.names[row]) is not None)
    if len(counts) < 2 and not (counts and missing):
        return "one value" if counts else "no values", None
    if len(counts) > max(_NAMES_SHARE * sum(counts.values()), 2):
        return f"{len(counts)} different texts in {len(rows)} rows", None
    common = [name for name, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_MOST_CATEGORIES]]
    return "", _Category(column.name, tuple(sorted(common)), len(counts) > _MOST_CATEGORIES)


def _is_running(numbers: np.ndarray) -> bool:
    """Whether a column only counts the rows, which would tell the order in which they were written."""
    return len(numbers) > 2 and bool((np.diff(numbers) == 1).all()) and float(numbers[0]) in (0.0, 1.0)
