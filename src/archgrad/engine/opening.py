"""The opening of a run: its folder, the checkpoint that it goes on from, loggers and progress."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from archgrad.architecture import Architecture
from archgrad.data import Data, described
from archgrad.distributed import raise_on_all_ranks, rank, restarted, world_size
from archgrad.engine.epochs import Engine
from archgrad.engine.on_epoch import listeners
from archgrad.engine.run_options import RunOptions
from archgrad.engine.task import Result, Task
from archgrad.errors import RunError
from archgrad.rank_state import seed_for_rank, send_state
from archgrad.runs import Progress, RunFolder, StopRequest, in_ipython, open_loggers

__all__ = ["opened"]


@contextmanager
def opened(
    task: Task[Result],
    options: RunOptions,
    *,
    config: Mapping[str, Any],
    data: Data,
    architecture: Architecture | None = None,
    said: str = "",
) -> Iterator[Engine[Result]]:
    """Open the run of a task, bring the task to its last checkpoint, and yield the engine that runs it.

    Process 0 alone sees the run folder.

    Args:
        task: At its beginning.
        options: Of the run.
        config: All that goes into config.yaml.
        data: What the task's streams read; said first, and kept in environment.json.
        architecture: Copied into the run folder.
        said: What is said after the data.

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
            if folder is not None and folder.more_epochs:
                if task.told_to_stop:
                    raise RunError(
                        f"The run in '{folder.path}' was ended for good after epoch {task.epoch}, by patience or "
                        f"on_epoch, so that it does not go on with more epochs. Start a new run."
                    )
                folder.lengthen(folder.more_epochs)
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
        if said:
            progress.message(said)
        if moved:
            progress.message(moved)
        yield Engine(
            task,
            schedule=options,
            request=request,
            saves=saves,
            on_epoch=listeners(options.on_epoch),
            max_minutes=options.max_minutes,
            patience=options.patience,
            watch=options.watch,
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
            fixed_length=task.fixed_length,
            modernised=task.modernised,
        )
    return RunFolder.create(options.run_dir, command=task.command, config=config, overwrite=options.overwrite)
