"""A table with a column that is to be predicted, as data: numbers standardised, categories in columns of their own."""

import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from archgrad.checks import check_real, check_word
from archgrad.data import split as splits
from archgrad.data.class_targets import tell_similar_names
from archgrad.data.dataset import Data
from archgrad.data.samples import TensorSamples
from archgrad.data.table_columns import Column, is_missing
from archgrad.data.table_doubts import tell_orders, tell_stand_ins
from archgrad.data.table_encoding import NAMES_SHARE, measured_encoding, read_one
from archgrad.data.table_file import Table, read_table
from archgrad.errors import DataError, OptionError, did_you_mean
from archgrad.json_text import shown

Kind = Literal["classification", "regression"]

_MOST_CLASSES = 20
"""Most different whole numbers that are taken as classes."""


def load_table(
    path: Path,
    *,
    target: str | None,
    task: Kind | None = None,
    group: str | None = None,
    time: str | None = None,
    sample_weight: str | None = None,
    test_fraction: float = 0.2,
    fold: tuple[int, int] | None = None,
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
        sample_weight: Column of numbers of at least 0, how much each row counts in the loss in relation to the others.
            It is no input.
        test_fraction: Share of the rows for the test set, from 0, which is none, to below 1.
        fold: (number from 1 on, number of folds), the part of all rows that is the test set instead; see `Data.fold`.

    Returns:
        The data, with inputs (F,) float32.

    Raises:
        DataError: The file cannot be read, has no such column, or nothing to learn from.
        OptionError: An option is missing or outside its range.
    """
    options = {"task": task, "group": group, "time": time, "sample_weight": sample_weight}
    return data_of_table(read_table(path), path, target=target, test_fraction=test_fraction, fold=fold, **options)  # type: ignore[arg-type]


def data_of_table(
    table: Table,
    path: Path,
    *,
    target: str | None,
    task: Kind | None,
    group: str | None,
    time: str | None,
    sample_weight: str | None,
    test_fraction: float = 0.2,
    fold: tuple[int, int] | None = None,
    parts: Tensor | None = None,
) -> Data:
    """Return the data of a table that was read; other arguments as of `load_table`.

    Args:
        table: The rows.
        path: Where they were read, for messages and the name of the data.
        parts: (N,) which part each row is of, 0 for training, 1 for the test, 2 for the alphas of a search; None, or
            no test row, splits the training rows.
    """
    if task is not None:
        check_word("task", task, ("classification", "regression"))
    check_real("test_fraction", test_fraction, below=1)
    if group is not None and time is not None:
        raise OptionError("Rows are split by group or by time, but got both. Give one of them.")
    targets = _target_columns(table, target, path)
    for name in (group, time, sample_weight):
        _check_column(name, table, path)
    columns = {name: read_one(table, name) for name in table.columns}
    rows = _rows_with(targets, columns, table, path)
    values, classes = _target_values([columns[name] for name in targets], rows, task)
    if classes:
        if len(classes) < 2:
            raise DataError(
                f"The target {shown(targets[0])} of '{path}' is {shown(classes[0])} in each row, but at least 2 "
                f"classes are needed. Give rows of others."
            )
        tell_similar_names(classes, path)
    tell_stand_ins(columns.values(), path)

    chosen = group or time
    order = None if chosen is None else columns[chosen]
    given = torch.zeros(len(rows)) if parts is None else parts[torch.from_numpy(rows)]
    (train,), (test,), (valid,) = ((given == number).nonzero(as_tuple=True) for number in range(3))
    if fold is not None:
        if time is not None:
            raise OptionError("Rows that are split by time have no folds. Give time or fold.")
        groups = None if order is None else _order_of(order, rows[train.numpy()], by_time=False)
        tested = splits.fold_numbers(values[train], fold[1], groups=groups) == fold[0] - 1
        train, test = train[~tested], train[tested]
    elif not len(test):
        of_train = rows[train.numpy()]
        first, second = _split(values[train], order, of_train, by_time=time is not None, fraction=test_fraction)
        train, test = train[first], train[second]
    beside = (*targets, group, time, sample_weight)
    inputs = [column for name, column in columns.items() if name not in beside]
    encoding = measured_encoding(inputs, rows[train], path)
    if time is None:
        tell_orders((columns[each.name] for each in encoding.columns), path)
    encoded = encoding.encoded(columns)[torch.from_numpy(rows)]
    weights = None if sample_weight is None else _weights_of(columns[sample_weight], rows)

    def samples_of(part: Tensor) -> TensorSamples:
        return TensorSamples(encoded[part], values[part], None if weights is None else weights[part])

    kept = None if order is None else _order_of(order, rows[train], by_time=time is not None)
    return Data(
        name=str(path),
        train=samples_of(train),
        test=samples_of(test) if len(test) else None,
        valid=samples_of(valid) if len(valid) else None,
        classes=classes,
        in_features=encoded.shape[1],
        encoding=encoding,
        times=kept if time is not None else None,
        groups=kept if group is not None else None,
    )


def _weights_of(column: Column, rows: np.ndarray) -> Tensor:
    if column.numbers is None or column.dates or not (column.numbers[rows] >= 0).all():
        raise DataError(
            f"The column {shown(column.name)} must hold a number of at least 0 in each row to weigh it in the loss. "
            f"Fill or mend it."
        )
    return torch.from_numpy(column.numbers[rows]).float()


def _target_columns(table: Table, target: str | None, path: Path) -> list[str]:
    if target is None:
        raise OptionError(
            f"The table '{path}' needs a column that is to be predicted. Give target=... (on the command line "
            f"--target), one of {', '.join(table.columns)}."
        )
    names = [target] if target in table.columns else [name.strip() for name in target.split(",")]
    for name in names:
        _check_column(name, table, path)
    return names


def _check_column(name: str | None, table: Table, path: Path) -> None:
    if name is not None and name not in table.columns:
        hint = did_you_mean(name, table.columns, cutoff=0.5)
        plain = all(map(str.isascii, table.columns))
        raise DataError(
            f"'{path}' has no column {shown(name)}.{hint} It has {', '.join(table.columns)}."
            f"{'' if plain else ' If these are misread, save it as UTF-8.'}"
        )


def _rows_with(targets: list[str], columns: Mapping[str, Column], table: Table, path: Path) -> np.ndarray:
    """Return the numbers of the rows that have a target."""
    gone = np.asarray(np.stack([columns[name].missing() for name in targets]).any(0))
    if gone.all():
        raise DataError(f"No row of '{path}' has a value in {', '.join(targets)}. Give another target.")
    if gone.any():
        written = Counter(
            cell for name in targets for cell in table.columns[name] if isinstance(cell, str) and is_missing(cell)
        )
        words = ", ".join(f"{shown(cell)} in {count} of them" for cell, count in written.most_common(3))
        warnings.warn(
            f"{gone.sum()} of {len(gone)} rows of {path} have no target and are left out"
            + (f"; {words}. If that is a class, call it otherwise." if words else "."),
            stacklevel=3,
        )
    return np.flatnonzero(~gone)


def _target_values(targets: list[Column], rows: np.ndarray, task: Kind | None) -> tuple[Tensor, tuple[str, ...]]:
    """Return (rows,) int64 class numbers and their names, or (rows,) or (rows, targets) float32 values and none."""
    if len(targets) > 1 or task == "regression":
        if names := [column.name for column in targets if column.numbers is None]:
            raise DataError(
                f"Values to be predicted must be numbers, but {names} hold names. Give one target of names."
            )
        stacked = np.stack([column.numbers[rows] for column in targets if column.numbers is not None], 1)
        values = torch.from_numpy(stacked).float()
        return (values if len(targets) > 1 else values[:, 0]), ()
    (target,) = targets
    if target.numbers is None:
        assert target.names is not None
        names = [str(target.names[row]) for row in rows]
        classes = sorted(set(names))
        if len(classes) > NAMES_SHARE * len(rows):
            raise DataError(
                f"The target {shown(target.name)} has {len(classes)} different texts in {len(rows)} rows, such as "
                f"{shown(names[0])}, which are no classes. Give another target."
            )
        number = {name: place for place, name in enumerate(classes)}
        return torch.tensor([number[name] for name in names]), tuple(classes)
    numbers = target.numbers[rows]
    distinct = np.unique(numbers)
    whole = bool((distinct == np.round(distinct)).all()) and not target.dates
    if task == "classification" or (whole and len(distinct) <= min(_MOST_CLASSES, NAMES_SHARE * len(rows))):
        return torch.from_numpy(np.searchsorted(distinct, numbers)).long(), tuple(f"{value:g}" for value in distinct)
    return torch.from_numpy(numbers).float(), ()


def _split(
    values: Tensor, order: Column | None, rows: np.ndarray, *, by_time: bool, fraction: float
) -> tuple[Tensor, Tensor]:
    """Return the numbers, among the rows with a target, of those for training and for the test."""
    if not fraction:
        return torch.arange(len(rows)), torch.zeros(0, dtype=torch.int64)
    if order is None:
        first, second = splits.stratified_halves(values, fraction=1 - fraction, seed=0)
    elif by_time:
        first, second = splits.ordered_halves(_order_of(order, rows, by_time=True), fraction=1 - fraction)
    else:
        groups = _order_of(order, rows, by_time=False)
        first, second = splits.grouped_halves(values, groups, fraction=1 - fraction, seed=0)
    return first.sort().values, second.sort().values


def _order_of(column: Column, rows: np.ndarray | Tensor, *, by_time: bool) -> Tensor:
    rows = np.asarray(rows)
    if column.missing()[rows].any():
        raise DataError(
            f"The column {shown(column.name)} has rows without a value, which belong to no part. Fill them."
        )
    if by_time and column.numbers is None:
        raise DataError(
            f"The column {shown(column.name)} must hold numbers or dates such as 2024-05-31 12:00 to tell the order, "
            f"but holds {shown(column.distinct()[0])}. Write them so."
        )
    values = column.numbers if column.numbers is not None else np.array(column.names)
    chosen = values[rows]
    return splits.numbered_times(chosen, len(rows)) if by_time else splits.numbered_groups(chosen, len(rows))
