"""The opening of a run: its folder, the checkpoint that it goes on from, loggers and progress."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from archgrad.architecture import Architecture
from archgrad.data import Data, described
from archgrad.distributed import raise_on_all_ranks, rank, restarted, world_size
from archgrad.engine.epochs import Engine
from archgrad.engine.on_epoch import OnEpoch, listeners
from archgrad.engine.task import Result, Task
from archgrad.errors import OptionError
from archgrad.json_text import shown
from archgrad.rank_state import seed_for_rank, send_state
from archgrad.runs import CheckpointSchedule, Progress, RunFolder, StopRequest, check_loggers, in_ipython, open_loggers
from archgrad.sizes import check_whole

__all__ = ["Resume", "RunOptions", "opened"]

Resume = bool | Literal["auto"]
"""Whether to go on with the run in a folder; "auto" does so where the folder holds a run, and begins one where not."""


@dataclass(frozen=True, kw_only=True)
class RunOptions(CheckpointSchedule):
    """Where a run goes, when it is saved and what it shows; no result depends on them.

    Raises:
        OptionError: A value is outside its range, or does not go with the others.
    """

    run_dir: str | os.PathLike[str] | None
    """The run folder; None keeps nothing on disk."""
    resume: Resume
    """Go on with the run in the folder; "auto" begins one where there is none."""
    overwrite: bool
    """Remove an earlier run in the folder first."""
    log_frequency: int | None
    """Steps from one plain line to the next, at least 1; None writes a line per epoch."""
    quiet: bool
    """Show no progress."""
    wandb: str | None
    """Project of Weights & Biases to log to as well."""
    mlflow: str | None
    """Experiment of MLflow to log to as well."""
    on_epoch: OnEpoch | Sequence[OnEpoch] | None = None
    """Called at the end of each epoch."""
    max_minutes: float | None = None
    """Time after which the run is saved and ends, above 0; None sets no limit."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.resume, bool) and self.resume != "auto":
            raise OptionError(f"resume must be True, False or 'auto', but got resume={shown(self.resume)}.")
        if self.run_dir is None and (self.resume or self.overwrite):
            asked = f"resume={self.resume!r}" if self.resume else "overwrite=True"
            raise OptionError(f"{asked} needs a run folder. Give run_dir.")
        if self.resume and self.overwrite:
            raise OptionError(
                f"resume={self.resume!r} goes on with a run and overwrite=True removes it. Give one of them."
            )
        if self.log_frequency is not None:
            check_whole("log_frequency", self.log_frequency, least=1)
        listeners(self.on_epoch)
        if self.max_minutes is not None:
            limit = self.max_minutes
            if isinstance(limit, bool) or not isinstance(limit, int | float) or not 0 < limit < float("inf"):
                raise OptionError(f"max_minutes must be a number above 0, but got max_minutes={shown(limit)}.")
            if self.run_dir is None:
                raise OptionError("max_minutes needs a run folder, so that the run can go on later. Give run_dir.")
        check_loggers(wandb=self.wandb, mlflow=self.mlflow)


@contextmanager
def opened(
    task: Task[Result],
    options: RunOptions,
    *,
    config: Mapping[str, Any],
    data: Data,
    architecture: Architecture | None = None,
) -> Iterator[Engine[Result]]:
    """Open the run of a task, bring the task to its last checkpoint, and yield the engine that runs it.

    Process 0 alone sees the run folder.

    Args:
        task: At its beginning.
        options: Of the run.
        config: All that goes into config.yaml.
        data: What the task's streams read; said first, and kept in environment.json.
        architecture: Copied into the run folder.

    Raises:
        RunError: The run folder is in use, taken, or does not fit.
    """
    seed_for_rank(task.seed)
    about = described(data, [stream.samples for stream in task.streams])
    with ExitStack() as stack:
        folder, saved, moved = None, None, ""
        with raise_on_all_ranks():
            if options.run_dir is not None and rank() == 0:
                folder = task.folder = stack.enter_context(_open_folder(task, options, config))
                if architecture is not None:
                    folder.save_architecture(architecture)
                folder.record_environment(seed=task.seed, data=about.text)
                saved = folder.load_checkpoint()
        saves = options.run_dir is not None
        alone = world_size() == 1  # several processes without a folder end as Python ends them
        request = stack.enter_context(StopRequest(process_lives=not saves or in_ipython())) if saves or alone else None
        saved = send_state(saved)
        with raise_on_all_ranks():
            if saved is not None:
                moved = task.load_state_dict(saved)
            if folder is not None:
                folder.rewind(epochs=task.epoch)
                if not task.history:  # a retraining's checkpoint has none
                    task.history = list(folder.metrics.rows())
            if rank() == 0:
                task.loggers = stack.enter_context(
                    open_loggers(
                        None if folder is None else folder.path,
                        config=config,
                        first_epoch=task.epoch,
                        wandb=options.wandb,
                        mlflow=options.mlflow,
                        guard=None if folder is None else folder.guard,
                    )
                )
        task.history = send_state(task.history)
        progress = Progress(
            task.command,
            task.shown,
            epochs=task.epochs,
            steps=task.batches_per_epoch,
            device=task.device,
            unit=about.unit,
            log_frequency=options.log_frequency,
            quiet=options.quiet or rank() > 0,
        )
        task.progress = stack.enter_context(progress)
        progress.message(f"Data: {about.text}.")
        if moved:
            progress.message(moved)
        yield Engine(
            task,
            schedule=options,
            request=request,
            saves=saves,
            on_epoch=listeners(options.on_epoch),
            max_minutes=options.max_minutes,
        )


def _open_folder(task: Task[Any], options: RunOptions, config: Mapping[str, Any]) -> RunFolder:
    assert options.run_dir is not None
    # What was started again has its options from before, and must not begin anew.
    goes_on = options.resume is True
    if options.resume == "auto" or restarted():
        goes_on |= os.path.isfile(Path(options.run_dir) / "config.yaml")
    if goes_on:
        return RunFolder.resume(
            options.run_dir,
            command=task.command,
            config=config,
            may_differ=task.may_differ,
            modernised=task.modernised,
        )
    return RunFolder.create(options.run_dir, command=task.command, config=config, overwrite=options.overwrite)
