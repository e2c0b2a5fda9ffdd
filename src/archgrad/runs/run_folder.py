"""The folder of a run: who may write into it, and where everything lies."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from torch import Tensor

from archgrad.architecture import Architecture
from archgrad.errors import ArchitectureError, RunError
from archgrad.files import Guard, disk_error, is_partial, read_explained, remove_partial_files, write_text
from archgrad.json_text import MAX_TEXT_BYTES, is_unicode, parse_json, shown_text
from archgrad.runs.checkpoint import Checkpoints
from archgrad.runs.config import config_difference, plain_config, read_config, write_config
from archgrad.runs.environment import record_environment
from archgrad.runs.events import EVENTS
from archgrad.runs.lock import LOCK_NAMES, RunLock
from archgrad.runs.metrics import MetricsFile
from archgrad.runs.tensors import save_tensors

__all__ = ["Command", "RunFolder"]

Command = Literal["search", "retrain", "random-search"]
"""What a run does."""

_CONFIG = "config.yaml"
_OWN_FILES = (
    "architecture.json", "metrics.csv", "timings.csv", "environment.json", "latency.json", "paths.json",
    "summary.json", "predictions.safetensors", "worst.safetensors", "report.html",
)  # fmt: skip
_OWN_FOLDERS = ("checkpoints", "weights", "report", "candidates", "members")


class RunFolder:
    """A run folder whose lock this process holds; a context manager that gives the lock back.

    Make one with `create` or `resume`.

    Attributes:
        path: The folder.
        command: "search" or "retrain".
        config: The options in `config.yaml`, without `command`.
        metrics: `metrics.csv`, one row per epoch; holds only what is the same when a run is repeated.
        timings: `timings.csv`, one row per epoch.
        weights: The folder `weights/`, for safetensors files.
        guard: Raises where a file may not be changed: the folder is no longer the one that was locked, or a link leads
            out of it. What writes into the folder asks it before.
        resumed: Whether the run goes on from an earlier start.
        more_epochs: To how many epochs it is to go on; 0 where they are as before.
    """

    def __init__(self, path: Path, command: Command, config: dict[str, Any], lock: RunLock, *, resumed: bool) -> None:
        self.path = path
        self.command = command
        self.config = config
        self.resumed = resumed
        self.more_epochs = 0
        self.metrics = MetricsFile(path / "metrics.csv", guard=lock.check)
        self.timings = MetricsFile(path / "timings.csv", guard=lock.check)
        self.weights = path / "weights"
        self.guard: Guard = lock.check
        self._checkpoints = Checkpoints(path / "checkpoints", guard=lock.check)
        self._lock = lock

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        command: Command,
        config: Mapping[str, Any],
        overwrite: bool = False,
    ) -> RunFolder:
        """Start a run in a new or empty folder, and write its `config.yaml`.

        Args:
            path: The folder; parents are created.
            command: What the run does.
            config: Every option, as plain data.
            overwrite: Whether an earlier run in the folder may be removed; files that are not archgrad's stay.

        Raises:
            RunError: The folder holds something and `overwrite` is False, another process uses it, it cannot be
                written, or `config` is not plain data.
        """
        path = _checked(path)
        content = {"command": command, **plain_config(config)}
        try:
            path.mkdir(parents=True, exist_ok=True)
            _check_free(path, overwrite=overwrite)
        except FileExistsError as error:
            raise RunError(f"The run folder '{path}' is a file. Choose another name.") from error
        except OSError as error:
            raise disk_error(error, path, doing="use the folder") from error
        lock = RunLock(path)
        try:
            _check_free(path, overwrite=overwrite)  # again: another process may have had the folder in between
            _remove_run(path, lock.check)
            write_config(path / _CONFIG, content, guard=lock.check)
            _make_folders(path, command, lock.check)
        except OSError as error:
            lock.release()
            raise disk_error(error, path, doing="write into") from error
        except BaseException:
            lock.release()
            raise
        return cls(path, command, {key: content[key] for key in content if key != "command"}, lock, resumed=False)

    @classmethod
    def resume(
        cls,
        path: str | os.PathLike[str],
        *,
        command: Command,
        config: Mapping[str, Any] | None,
        may_differ: Collection[str] = (),
        modernised: Callable[[dict[str, Any]], dict[str, Any]] = dict,
        fixed_length: str = "all that was done went by them",
    ) -> RunFolder:
        """Go on with the run in a folder.

        Args:
            path: The run folder.
            command: What the run must be doing.
            config: The options asked for, to be compared with the run's; None takes the run's as they are.
            may_differ: Options that may differ, because the result does not depend on them (device, workers, ...).
            modernised: Brings the options of an earlier version's run to their present form.
            fixed_length: Why `epochs` must not be more than the run's, in words; empty where it may (`lengthen`).

        Raises:
            RunError: The folder holds no run of this command, the options differ (the message lists them), another
                process uses the folder, or it cannot be written.
        """
        path = _checked(path)
        if not os.path.isfile(path / _CONFIG):  # False where the name is too long, which is_file() raises
            raise RunError(f"Cannot resume '{path}': it holds no {_CONFIG}, so it is no run folder. Check the path.")
        stored = read_config(path / _CONFIG)
        if (found := stored.pop("command", None)) != command:
            found = shown_text(str(found))
            raise RunError(
                f"Cannot resume '{path}' as a {command}: its {_CONFIG} says command: {found}. Use that command, or "
                f"another folder."
            )
        more_epochs = 0
        if config is not None:
            before, asked = stored.get("epochs"), config.get("epochs")
            grows = isinstance(before, int) and isinstance(asked, int) and asked > before
            if grows and not fixed_length:
                more_epochs, may_differ = int(asked or 0), (*may_differ, "epochs")
            difference = config_difference(modernised(stored), plain_config(config), may_differ=may_differ)
            if difference:
                why = f"\nThe epochs cannot become more, as {fixed_length}." if grows and fixed_length else ""
                raise RunError(
                    f"Cannot resume '{path}' with other options:\n  "
                    + "\n  ".join(difference)
                    + why
                    + "\nGive the run's own options (or none), or start a new run in another folder."
                )
        lock = RunLock(path)
        try:
            _make_folders(path, command, lock.check)  # a start that was killed early has not made them
            for name in ("", "checkpoints", "weights"):
                lock.check(path / name / "any")
                remove_partial_files(path / name)
        except OSError as error:
            lock.release()
            raise disk_error(error, path, doing="write into") from error
        except BaseException:
            lock.release()
            raise
        folder = cls(path, command, stored, lock, resumed=True)
        folder.more_epochs = more_epochs
        return folder

    def lengthen(self, epochs: int) -> None:
        """Write into `config.yaml` that the run has more epochs."""
        self.config["epochs"] = epochs
        write_config(self.path / _CONFIG, {"command": self.command, **self.config}, guard=self.guard)

    def save_architecture(self, architecture: Architecture, epoch: int | None = None) -> Path:
        """Write an architecture as JSON.

        Args:
            architecture: What to write.
            epoch: The 0-based epoch after which it was derived, for `checkpoints/epoch_N.json`; None for
                `architecture.json`, the architecture that a retraining trains.

        Returns:
            The file.
        """
        name = "architecture.json" if epoch is None else f"checkpoints/epoch_{epoch}.json"
        write_text(self.path / name, architecture.to_json(), guard=self.guard)
        return self.path / name

    def save_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write named tensors, such as `weights/last.safetensors`; see `archgrad.runs.save_tensors`."""
        save_tensors(self.path / name, tensors, guard=self.guard)

    def save_checkpoint(self, state: Any) -> float:
        """Write everything needed to go on as `checkpoints/last.ckpt`, and keep the checkpoint before it.

        Args:
            state: What `save_state` takes.

        Returns:
            Seconds that it took.

        Raises:
            RunError: The state holds something that is not stored, or the disk is full or read-only. Earlier
                checkpoints stay.
        """
        return self._checkpoints.save(state)

    def load_checkpoint(self) -> Any | None:
        """Return the state of the last intact checkpoint, tensors on the CPU, or None if there is none yet.

        Warns and takes the older checkpoint when the newer one is damaged.

        Raises:
            RunError: There are checkpoints, but none is intact.
        """
        return self._checkpoints.load(set_aside=True)

    def rewind(self, *, epochs: int) -> None:
        """Remove what was written after the checkpoint from which the run goes on; it is written again.

        Args:
            epochs: How many epochs the checkpoint has completed.
        """
        self.metrics.truncate(epochs=epochs)
        self.timings.truncate(epochs=epochs)

    def save_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file, such as `summary.json`, atomically."""
        write_text(self.path / name, json.dumps(content, indent=2, ensure_ascii=False) + "\n", guard=self.guard)

    def record_environment(self, *, seed: int, data: str | None = None) -> None:
        """Write versions, hardware, seed, command line and data to `environment.json`; a resumed run adds its own.

        Args:
            seed: The run's seed.
            data: What the run reads, in a line.
        """
        path = self.path / "environment.json"
        record = record_environment(seed=seed, data=data)
        if self.resumed and path.is_file():
            try:
                text = read_explained(path, most=MAX_TEXT_BYTES).decode("utf-8")
                first = parse_json(text, not_finite_as_none=True)
                first["resumed"] = [*first.get("resumed", []), record]
            except (RunError, ValueError, TypeError, AttributeError, ArchitectureError):
                first = record  # the old record was damaged; it is only a record
            record = first
        self.save_json(path.name, record)

    def close(self) -> None:
        """Give the lock back; the folder stays as it is."""
        self._lock.release()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _checked(path: str | os.PathLike[str]) -> Path:
    if not is_unicode(os.fspath(path)):
        raise RunError(
            f"The path of a run folder must be UTF-8, as TensorBoard reads no other, but got {os.fspath(path)!a}. "
            f"Choose another name, or rename the folder."
        )
    return Path(path)


def _make_folders(path: Path, command: Command, guard: Guard) -> None:
    for name in ("checkpoints", "weights") if command == "retrain" else ("checkpoints",):
        guard(path / name / "any")
        (path / name).mkdir(exist_ok=True)


def _check_free(path: Path, *, overwrite: bool) -> None:
    # A start that was killed while it wrote its configuration leaves a half-written one, and nothing to go on with.
    occupied = sorted(e.name for e in path.iterdir() if e.name not in LOCK_NAMES and not is_partial(e.name))
    if occupied and not overwrite:
        raise RunError(
            f"The run folder '{path}' exists and is not empty (it holds {_some(occupied)}). "
            f"Go on with it by resuming, choose another folder, or pass overwrite=True (--overwrite) to start anew in "
            f"it."
        )
    if occupied and not (path / _CONFIG).is_file():
        raise RunError(
            f"The folder '{path}' holds {_some(occupied)}, but no {_CONFIG}, so it is no run of archgrad's "
            f"and is not overwritten. Choose another folder."
        )


def _remove_run(path: Path, guard: Guard) -> None:
    guard(path / _CONFIG)
    for name in (*_OWN_FILES, *(entry.name for entry in path.glob(EVENTS))):
        (path / name).unlink(missing_ok=True)
    for name in _OWN_FOLDERS:
        if (path / name).is_symlink():  # the link goes, and what it leads to stays
            (path / name).unlink()
        elif (path / name).is_dir():
            shutil.rmtree(path / name)
    remove_partial_files(path)  # not the configuration: by it a half-removed run is still known as one


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
