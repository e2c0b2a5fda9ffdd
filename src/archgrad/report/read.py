"""Runs as they lie on the disk: whatever there is of them, also while they go on and after they broke off."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import yaml
from safetensors import SafetensorError
from safetensors.numpy import load

from archgrad.architecture import Architecture
from archgrad.errors import ArchgradError, RunError
from archgrad.files import read_file
from archgrad.json_text import parse_json, shown, shown_text
from archgrad.report.outcomes import Masks, Outputs, Predictions, Worst, masks_of, predictions_of, worst_of

__all__ = [
    "NOT_A_SETTING",
    "Frame",
    "Run",
    "Table",
    "flatten",
    "read_config_file",
    "read_probabilities",
    "read_run",
    "read_table",
]

NOT_A_SETTING = {"seed", "out", "run_dir", "overwrite", "resume", "device", "arch", "quiet", "config"}
"""Options in which runs may differ that are repetitions of each other."""

_SIGNS = ("config.yaml", "metrics.csv", "environment.json", "architecture.json", "summary.json", "checkpoints")
_MAX_TEXT_BYTES = 64 * 1024 * 1024
_MAX_YAML_BYTES = 256 * 1024  # as much as a run may write; reading it takes seconds
_MAX_EPOCH = 1_000_000_000
_MAX_VALUE = 1e300  # beyond it a diverged loss is as good as infinite, and an axis could not be computed
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Table:
    """A CSV file of numbers, one row an epoch."""

    epochs: tuple[int, ...] = ()
    columns: Mapping[str, tuple[float, ...]]
    """Column -> one value an epoch, NaN where the cell is no number; columns without any number are left out."""

    def last(self, column: str) -> float | None:
        """Return the last value of a column; None where it has none."""
        finite = [value for value in self.columns.get(column, ()) if math.isfinite(value)]
        return finite[-1] if finite else None

    def best(self, column: str) -> tuple[float, int] | None:
        """Return the largest value of a column and its first epoch; None where it has none."""
        pairs = [(v, -e) for v, e in zip(self.columns.get(column, ()), self.epochs, strict=False) if math.isfinite(v)]
        return (max(pairs)[0], -max(pairs)[1]) if pairs else None


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The architecture after one epoch, with the probabilities that it came from."""

    epoch: int
    architecture: Architecture
    probabilities: Mapping[str, Mapping[str, float]]
    """Label -> {candidate: probability}; the candidates of an input choice are "0", "1", ..."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """All that the report shows of one run folder."""

    path: Path
    command: str
    """"search" or "retrain"."""
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    summary: Mapping[str, Any]
    metrics: Table
    timings: Table
    frames: tuple[Frame, ...]
    n_epochs_saved: int
    """Number of epochs whose architecture was saved; more than the frames where these are thinned out."""
    architecture: Architecture | None
    """The last one, or the one that a stopping rule returned."""
    stopped: bool
    """Whether it is a search that its stopping rule ended."""
    predictions: Predictions | None
    """Of classes."""
    outputs: Outputs | None
    """Of values or several labels."""
    worst: Worst | None
    masks: Masks | None
    notes: tuple[str, ...]
    """What could not be read."""

    @property
    def planned_epochs(self) -> int | None:
        """How many epochs the configuration asks for."""
        flat = flatten(self.config)
        found = [v for key, v in flat.items() if key.split(".")[-1] == "epochs" and type(v) is int]
        if (
            found
            and flat.get("method.stopping.name") == "epoch-limit"
            and type(flat.get("method.stopping.epochs")) is int
        ):
            found[0] = min(found[0], flat["method.stopping.epochs"])
        members = flat.get("method.ensemble.members")  # each has as many
        return found[0] * (members if type(members) is int else 1) if found else None

    @property
    def done_epochs(self) -> int:
        """How many epochs the run has finished."""
        return max(
            [*(epoch + 1 for epoch in self.metrics.epochs), *(frame.epoch + 1 for frame in self.frames)], default=0
        )

    @property
    def shows(self) -> str:
        """What outputs show, as `archgrad.tasks.Task.shows`; runs that say nothing are of before there were others."""
        return str(self._task.get("shows", "classes"))

    @property
    def best(self) -> tuple[str, bool]:
        """The metric that "best" goes by, and whether its highest value is best."""
        measured = (name.removeprefix("valid_") for name in self.metrics.columns if name.startswith("valid_"))
        first = next((name for name in measured if name != "loss"), "accuracy")  # of a search, which has no summary
        return str(self._task.get("best", first)), self._task.get("best_is", "highest") != "lowest"

    @property
    def threshold(self) -> float:
        """The probability from which on a label is taken."""
        found = self._task.get("threshold")
        return float(found) if isinstance(found, float) and 0 < found < 1 else 0.5

    @property
    def _task(self) -> Mapping[str, Any]:
        task = self.summary.get("task")
        return task if isinstance(task, Mapping) else {}

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, as far as the run says."""
        names = self.summary.get("classes", self.summary.get("class_names", ()))
        return tuple(str(name) for name in names) if isinstance(names, list) else ()


def read_run(path: Path, *, max_frames: int = 200) -> Run:
    """Read a run folder.

    Args:
        path: The folder of a search or a retraining.
        max_frames: Most epochs whose architecture is read; of more, evenly spread ones are.

    Raises:
        RunError: There is no run in `path`.
    """
    path = Path(path)
    if not path.is_dir() or not any((path / sign).exists() for sign in _SIGNS):
        state = "has none of these" if path.is_dir() else "is no folder"
        below = sorted(sign.parent for sign in path.glob(f"*/{_SIGNS[0]}"))
        more = f" There are runs in it, such as '{below[0]}'." if below else ""
        raise RunError(
            f"A run folder holds {', '.join(_SIGNS[:2])} or checkpoints/, but '{path}' {state}. "
            f"Name the folder given as --out to a search or a retraining.{more}"
        )
    notes: list[str] = []

    def attempt(name: str, read: Callable[[Path], T], missing: T) -> T:
        file = path / name
        if not file.exists():
            return missing
        try:
            return read(file)
        except (OSError, ValueError, SafetensorError, ArchgradError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            notes.append(f"{name} cannot be read: {reason}")
            return missing

    nothing: dict[str, Any] = {}
    config = attempt("config.yaml", read_config_file, nothing)
    summary = attempt("summary.json", _read_json, nothing)
    numbers = _saved_epochs(path / "checkpoints")
    frames = []
    for number in _spread(numbers, max_frames):
        name = f"checkpoints/epoch_{number}.json"
        architecture = attempt(name, Architecture.load, None)
        if architecture is not None:
            frames.append(
                Frame(
                    epoch=number, architecture=architecture, probabilities=read_probabilities(architecture.provenance)
                )
            )
    own = attempt("architecture.json", Architecture.load, None)
    predictions = attempt("predictions.safetensors", lambda file: predictions_of(_tensors(file)), None)
    retrain = summary or own is not None or (path / "predictions.safetensors").exists()
    command = str(config.get("command", "retrain" if retrain else "search"))
    return Run(
        path=path,
        command=command,
        config=config,
        environment=attempt("environment.json", _read_json, nothing),
        summary=summary,
        metrics=attempt("metrics.csv", read_table, Table(columns={})),
        timings=attempt("timings.csv", read_table, Table(columns={})),
        frames=tuple(frames),
        n_epochs_saved=len(numbers),
        architecture=own if own is not None else frames[-1].architecture if frames else None,
        stopped=own is not None and command == "search",
        predictions=predictions if isinstance(predictions, Predictions) else None,
        outputs=predictions if isinstance(predictions, Outputs) else None,
        worst=attempt("worst.safetensors", lambda file: worst_of(_tensors(file)), None),
        masks=attempt("masks.safetensors", lambda file: masks_of(_tensors(file)), None),
        notes=tuple(notes),
    )


def read_table(path: Path) -> Table:
    """Read a CSV file with a column `epoch`, without a last line that is still being written.

    Args:
        path: The file; of two rows with the same epoch the later counts.

    Raises:
        RunError: The file cannot be read, or is too large.
    """
    rows = [_fields(line) for line in _text(path).split("\n")[:-1]]  # only what archgrad writes as a line's end is one
    if not rows or "epoch" not in rows[0]:
        return Table(columns={})
    header = rows[0]
    by_epoch: dict[int, list[float]] = {}
    for row in rows[1:]:
        values = [_value(cell) for cell in row]
        if len(values) == len(header) and 0 <= (epoch := values[header.index("epoch")]) < _MAX_EPOCH:
            by_epoch[int(epoch)] = values
    epochs = tuple(sorted(by_epoch))
    columns = {name: tuple(by_epoch[epoch][k] for epoch in epochs) for k, name in enumerate(header) if name != "epoch"}
    return Table(
        epochs=epochs,
        columns={name: column for name, column in columns.items() if not all(math.isnan(value) for value in column)},
    )


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested options as one level, with dots between the levels' names."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, name + "."))
        else:
            flat[name] = value
    return flat


def _value(cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        return math.nan
    return value if abs(value) < _MAX_VALUE else math.nan


def _text(path: Path) -> str:
    return _content(path, _MAX_TEXT_BYTES).decode("utf-8", errors="replace")


def _content(path: Path, most: int | None = None) -> bytes:
    try:
        return read_file(path, most=most)
    except OSError as error:
        reason = f"it cannot be opened ({error.strerror})" if error.strerror else str(error)
        raise RunError(f"{reason}. Take an intact copy.") from error


def _fields(line: str) -> list[str]:
    try:
        return next(csv.reader([line]), [])
    except csv.Error:  # a stray quote, or a cell that is too long
        return []


def read_config_file(path: Path) -> dict[str, Any]:
    """Return the options in a config.yaml, which may be anyone's; a fault in it is a ValueError."""
    text = _content(path, _MAX_YAML_BYTES).decode("utf-8", errors="replace")
    try:
        # A few nested aliases unfold to any amount of data; archgrad writes none.
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text, Loader=yaml.SafeLoader)):
            raise ValueError("aliases are not allowed in it")
        value = yaml.safe_load(text)
    except (yaml.YAMLError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        # The safe constructors raise these for scalars that do not fit an explicit tag, such as "!!int x".
        raise ValueError(shown_text(str(error) or type(error).__name__)) from error
    if not isinstance(value, dict):
        raise ValueError(f"it holds a {type(value).__name__}, not names with values")
    return {str(key): _printable(item) for key, item in value.items()}


def _printable(value: Any) -> Any:
    """Return nested options with a word for each integer of more digits than Python prints."""
    if isinstance(value, dict):
        return {str(key): _printable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_printable(item) for item in value]
    return shown(value) if isinstance(value, int) and abs(value) >= 2**64 else value


def _read_json(path: Path) -> dict[str, Any]:
    value = parse_json(_text(path), not_finite_as_none=True)
    if not isinstance(value, dict):
        raise ValueError(f"it holds a {type(value).__name__}, not names with values")
    return value


def _saved_epochs(folder: Path) -> list[int]:
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    matches = (re.fullmatch(r"epoch_([0-9]{1,9})\.json", name) for name in names)
    return sorted(int(match[1]) for match in matches if match)


def _spread(numbers: Sequence[int], most: int) -> list[int]:
    """At most `most` of the numbers, evenly, the first and the last among them."""
    step = max((len(numbers) - 1) / max(most - 1, 1), 1.0)
    return [numbers[round(k * step)] for k in range(min(len(numbers), most))]


def read_probabilities(provenance: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The probabilities of each label, or the softmax of its alphas where the file has no more than these."""
    rows: dict[str, dict[str, float]] = {}
    alphas = provenance.get("alphas")
    for label, row in alphas.items() if isinstance(alphas, Mapping) else ():
        values = _row(row)
        top = max(values.values(), default=0.0)
        total = sum(math.exp(value - top) for value in values.values())
        rows[label] = {name: math.exp(value - top) / total for name, value in values.items()}
    probabilities = provenance.get("probabilities")
    for label, row in probabilities.items() if isinstance(probabilities, Mapping) else ():
        rows[label] = {name: value for name, value in _row(row).items() if 0.0 <= value <= 1.0}
    return {label: row for label, row in rows.items() if row}


def _row(row: object) -> dict[str, float]:
    if isinstance(row, (list, tuple)):
        row = {str(i): value for i, value in enumerate(row)}
    if not isinstance(row, Mapping):
        return {}
    return {
        name: float(value) for name, value in row.items() if isinstance(value, (int, float)) and math.isfinite(value)
    }


def _tensors(path: Path) -> dict[str, np.ndarray]:
    try:
        return load(_content(path))
    except (KeyError, TypeError, AttributeError) as error:  # a type of number that NumPy lacks
        raise ValueError(f"it holds tensors of an unknown type ({error})") from error
