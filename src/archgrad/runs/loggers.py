"""Where figures go besides metrics.csv: TensorBoard always, Weights & Biases and MLflow when asked for."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from archgrad.errors import OptionError, RunError
from archgrad.files import Guard, disk_error, read_file, write_text
from archgrad.runs.config import plain_config
from archgrad.runs.events import EventFile

__all__ = ["Logger", "Loggers", "MlflowLogger", "TensorBoardLogger", "WandbLogger", "check_loggers", "open_loggers"]

_MOST_ID_BYTES = 1024
_WANDB_ID, _MLFLOW_ID = "wandb-id.txt", "mlflow-id.txt"


class Logger(Protocol):
    """A place that figures are sent to."""

    def log_metrics(self, row: Mapping[str, Any], step: int) -> None:
        """Send an epoch's numbers; cells that are None or text are left out."""

    def log_image(self, name: str, array: np.ndarray[Any, Any] | Tensor, step: int) -> None:
        """Send a picture: (H, W, 3) or (H, W), uint8."""

    def close(self) -> None:
        """Send what is still held back, and end."""


class TensorBoardLogger:
    """TensorBoard event files in the run folder.

    Args:
        folder: Where the event files go.
        config: The run's options, shown as hyper-parameters.
        first_epoch: The epoch that comes next; what a broken-off run logged from there on is hidden.
        guard: Asked before each change, as in `archgrad.files.atomic_write`.
    """

    def __init__(
        self, folder: Path, *, config: Mapping[str, Any], first_epoch: int = 0, guard: Guard | None = None
    ) -> None:
        # Imported here because it takes a second, and not every import of archgrad starts a run.
        from torch.utils.tensorboard import summary

        self._summary = summary
        self._events = EventFile(folder, first_step=first_epoch, guard=guard)
        values = {name: _hyper_parameter(value) for name, value in _flat(plain_config(config)).items()}
        self._events.add(list(summary.hparams(values, {})))

    def log_metrics(self, row: Mapping[str, Any], step: int) -> None:
        """Send an epoch's numbers as scalars."""
        numbers = _numbers(row).items()
        self._events.add([self._summary.scalar(_grouped(name), value) for name, value in numbers], step)

    def log_image(self, name: str, array: np.ndarray[Any, Any] | Tensor, step: int) -> None:
        """Send a picture."""
        self._events.add([self._summary.image(name, _colour(array), dataformats="HWC")], step)

    def close(self) -> None:
        """Write what is still held back, and close the file."""
        self._events.close()


class WandbLogger:
    """A run of Weights & Biases; needs `pip install archgrad[wandb]`.

    A resumed run goes on in the same W&B run, by the id that is kept in the run folder.

    Args:
        folder: The run folder; W&B's local files go there. Without one they go where W&B keeps them.
        project: The W&B project.
        config: The run's options.
        guard: Asked before anything is written, as in `archgrad.files.atomic_write`.
    """

    def __init__(
        self, folder: Path | None, *, project: str, config: Mapping[str, Any], guard: Guard | None = None
    ) -> None:
        self._wandb = _optional("wandb", "Weights & Biases")
        place: dict[str, Any] = {}
        if folder is not None:
            place = {"name": folder.name, "dir": str(folder), "id": _known_id(folder / _WANDB_ID), "resume": "allow"}
            if guard is not None:
                guard(folder / "wandb" / "any")  # W&B writes there itself
        self._run = self._wandb.init(project=project, config=plain_config(config), **place)
        if folder is not None:
            write_text(folder / _WANDB_ID, self._run.id + "\n", guard=guard)
        # Otherwise W&B counts calls, and drops what a resumed run logs again.
        self._run.define_metric("*", step_metric="epoch")

    def log_metrics(self, row: Mapping[str, Any], step: int) -> None:
        """Send an epoch's numbers."""
        self._run.log({**_numbers(row), "epoch": step})

    def log_image(self, name: str, array: np.ndarray[Any, Any] | Tensor, step: int) -> None:
        """Send a picture."""
        self._run.log({name: self._wandb.Image(_colour(array)), "epoch": step})

    def close(self) -> None:
        """Finish the W&B run."""
        self._run.finish()


class MlflowLogger:
    """A run of MLflow; needs `pip install archgrad[mlflow]`.

    A resumed run goes on in the same MLflow run, by the id that is kept in the run folder.

    Args:
        folder: The run folder, if any.
        experiment: The MLflow experiment; created if there is none of the name.
        config: The run's options.
        guard: Asked before anything is written, as in `archgrad.files.atomic_write`.
    """

    def __init__(
        self, folder: Path | None, *, experiment: str, config: Mapping[str, Any], guard: Guard | None = None
    ) -> None:
        mlflow = _optional("mlflow", "MLflow")
        self._client = mlflow.tracking.MlflowClient()
        known = None if folder is None else _known_id(folder / _MLFLOW_ID)
        if known is not None:
            self._run_id = known
            self._client.update_run(self._run_id, status="RUNNING")
        else:
            found = self._client.get_experiment_by_name(experiment)
            experiment_id = found.experiment_id if found else self._client.create_experiment(experiment)
            name = None if folder is None else folder.name
            self._run_id = self._client.create_run(experiment_id, run_name=name).info.run_id
            if folder is not None:
                write_text(folder / _MLFLOW_ID, self._run_id + "\n", guard=guard)
            for option, value in _flat(plain_config(config)).items():
                self._client.log_param(self._run_id, option, str(value)[:500])

    def log_metrics(self, row: Mapping[str, Any], step: int) -> None:
        """Send an epoch's numbers."""
        for name, value in _numbers(row).items():
            self._client.log_metric(self._run_id, name, value, step=step)

    def log_image(self, name: str, array: np.ndarray[Any, Any] | Tensor, step: int) -> None:
        """Send a picture, as the artifact NAME/STEP.png."""
        self._client.log_image(self._run_id, _colour(array), artifact_file=f"{name}/{step}.png")

    def close(self) -> None:
        """Mark the MLflow run as finished."""
        self._client.set_terminated(self._run_id)


class Loggers:
    """Several loggers as one; a context manager that closes them all."""

    def __init__(self, loggers: Sequence[Logger]) -> None:
        self._loggers = tuple(loggers)

    def __bool__(self) -> bool:
        return bool(self._loggers)

    def log_metrics(self, row: Mapping[str, Any], step: int) -> None:
        """Send an epoch's numbers to each; cells that are None or text are left out.

        Args:
            row: As in metrics.csv.
            step: The epoch, 0-based.
        """
        for logger in self._loggers:
            logger.log_metrics(row, step)

    def log_image(self, name: str, array: np.ndarray[Any, Any] | Tensor, step: int) -> None:
        """Send a picture to each.

        Args:
            name: What it shows.
            array: (H, W, 3) or (H, W), uint8.
            step: The epoch, 0-based.
        """
        for logger in self._loggers:
            logger.log_image(name, array, step)

    def close(self) -> None:
        """Close each."""
        for logger in self._loggers:
            logger.close()

    def __enter__(self) -> Loggers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What cannot be written at the end of a run that failed is not to hide why it failed.
        with suppress(RunError) if error is not None else nullcontext():
            self.close()


def check_loggers(*, wandb: str | None, mlflow: str | None) -> None:
    """Raise `OptionError` if a logger is asked for whose package is not installed; arguments as `open_loggers`."""
    if wandb is not None:
        _optional("wandb", "Weights & Biases")
    if mlflow is not None:
        _optional("mlflow", "MLflow")


def open_loggers(
    folder: Path | None,
    *,
    config: Mapping[str, Any],
    first_epoch: int = 0,
    wandb: str | None = None,
    mlflow: str | None = None,
    guard: Guard | None = None,
) -> Loggers:
    """Open TensorBoard, where there is a folder for it, and the loggers asked for.

    Args:
        folder: The run folder; None keeps nothing there.
        config: The run's options.
        first_epoch: The epoch that comes next; above 0 in a resumed run.
        wandb: Project of Weights & Biases, or None for no such logging.
        mlflow: Experiment of MLflow, or None for no such logging.
        guard: Asked before anything is written into the folder, as in `archgrad.files.atomic_write`.

    Raises:
        OptionError: A logger was asked for whose package is not installed.
        RunError: The folder cannot be written.
    """
    loggers: list[Logger] = []
    if wandb is not None:
        loggers.append(WandbLogger(folder, project=wandb, config=config, guard=guard))
    if mlflow is not None:
        loggers.append(MlflowLogger(folder, experiment=mlflow, config=config, guard=guard))
    if folder is not None:
        loggers.insert(0, TensorBoardLogger(folder, config=config, first_epoch=first_epoch, guard=guard))
    return Loggers(loggers)


def _optional(package: str, title: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise OptionError(
            f"Logging to {title} needs the package '{package}', which is not installed. "
            f"Install it with: pip install 'archgrad[{package}]'"
        ) from error


def _known_id(file: Path) -> str | None:
    """Return the id that an earlier start of the run was given; None where there is none, or a damaged one."""
    try:
        text = read_file(file, most=_MOST_ID_BYTES).decode("utf-8", errors="replace").strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise disk_error(error, file, doing="read") from error
    return text if re.fullmatch(r"[A-Za-z0-9_-]+", text) else None


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in row.items() if isinstance(value, (int, float)) and name != "epoch"}


def _grouped(name: str) -> str:
    # TensorBoard draws tags with a common beginning in one section: train_loss and valid_loss both under "loss".
    part, _, rest = name.partition("_")
    return f"{rest}/{part}" if rest and part in ("train", "valid", "test") else name


def _hyper_parameter(value: Any) -> Any:
    if isinstance(value, (bool, int, float)):
        return value
    return str(value).encode("utf-8", "backslashreplace").decode("utf-8")  # a path may be no UTF-8


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat.update(_flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value})
    return flat


def _colour(array: np.ndarray[Any, Any] | Tensor) -> np.ndarray[Any, Any]:
    picture = array.detach().cpu().numpy() if isinstance(array, torch.Tensor) else np.asarray(array)
    if picture.dtype != np.uint8 or picture.ndim not in (2, 3) or (picture.ndim == 3 and picture.shape[2] != 3):
        raise OptionError(
            f"A picture must be (H, W) or (H, W, 3) of uint8, but got {picture.shape} of {picture.dtype}."
        )
    return np.repeat(picture[:, :, None], 3, axis=2) if picture.ndim == 2 else picture
