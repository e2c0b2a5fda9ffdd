"""The opening of a run: its folder, the checkpoint that it goes on from, loggers and progress."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from archgrad.architecture import Architecture
from archgrad.distributed import rank, restarted, together, world_size
from archgrad.engine.epochs import Engine
from archgrad.engine.task import Result, Task
from archgrad.errors import OptionError
from archgrad.runs import CheckpointSchedule, Progress, RunFolder, StopRequest, check_loggers, in_ipython, open_loggers
from archgrad.sharing import seed_for_rank, send_state
from archgrad.sizes import check_whole

__all__ = ["RunOptions", "opened"]


@dataclass(frozen=True, kw_only=True)
class RunOptions(CheckpointSchedule):
    """Where a run goes, when it is saved and what it shows; no result depends on them.

    Raises:
        OptionError: A value is outside its range, or does not go with the others.
    """

    run_dir: str | os.PathLike[str] | None
    """The run folder; None keeps nothing on disk."""
    resume: bool
    """Go on with the run in the folder."""
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

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.run_dir is None and (self.resume or self.overwrite):
            raise OptionError(f"{'resume' if self.resume else 'overwrite'}=True needs a run folder. Give run_dir.")
        if self.resume and self.overwrite:
            raise OptionError("resume=True goes on with a run and overwrite=True removes it. Give one of them.")
        if self.log_frequency is not None:
            check_whole("log_frequency", self.log_frequency, least=1)
        check_loggers(wandb=self.wandb, mlflow=self.mlflow)


@contextmanager
def opened(
    task: Task[Result],
    options: RunOptions,
    *,
    config: Mapping[str, Any],
    architecture: Architecture | None = None,
) -> Iterator[Engine[Result]]:
    """Open the run of a task, bring the task to its last checkpoint, and yield the engine that runs it.

    Process 0 alone sees the run folder.

    Args:
        task: At its beginning.
        options: Of the run.
        config: All that goes into config.yaml.
        architecture: Copied into the run folder.

    Raises:
        RunError: The run folder is in use, taken, or does not fit.
    """
    seed_for_rank(task.seed)
    with ExitStack() as stack:
        folder, saved, moved = None, None, ""
        with together():
            if options.run_dir is not None and rank() == 0:
                folder = task.folder = stack.enter_context(_open_folder(task, options, config))
                if architecture is not None:
                    folder.save_architecture(architecture)
                folder.record_environment(seed=task.seed)
                saved = folder.load_checkpoint()
        saves = options.run_dir is not None
        alone = world_size() == 1  # several processes without a folder end as Python ends them
        request = stack.enter_context(StopRequest(process_lives=not saves or in_ipython())) if saves or alone else None
        saved = send_state(saved)
        with together():
            if saved is not None:
                moved = task.load_state_dict(saved)
            if folder is not None:
                folder.rewind(epochs=task.epoch)
                if not task.history:  # a retraining's checkpoint has none
                    task.history = list(folder.metrics.rows())
                task.loggers = stack.enter_context(
                    open_loggers(
                        folder.path,
                        config=config,
                        first_epoch=task.epoch,
                        wandb=options.wandb,
                        mlflow=options.mlflow,
                        guard=folder.guard,
                    )
                )
        task.history = send_state(task.history)
        progress = Progress(
            task.command,
            task.shown,
            epochs=task.epochs,
            steps=task.batches_per_epoch,
            device=task.device,
            log_frequency=options.log_frequency,
            quiet=options.quiet or rank() > 0,
        )
        task.progress = stack.enter_context(progress)
        if moved:
            progress.message(moved)
        yield Engine(task, schedule=options, request=request, saves=saves)


def _open_folder(task: Task[Any], options: RunOptions, config: Mapping[str, Any]) -> RunFolder:
    assert options.run_dir is not None
    # What was started again has its options from before, and must not begin anew.
    if options.resume or (restarted() and (Path(options.run_dir) / "config.yaml").is_file()):
        return RunFolder.resume(
            options.run_dir,
            command=task.command,
            config=config,
            may_differ=task.may_differ,
            modernised=task.modernised,
        )
    return RunFolder.create(options.run_dir, command=task.command, config=config, overwrite=options.overwrite)
