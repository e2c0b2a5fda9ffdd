"""The opening of a run: its folder, the checkpoint that it goes on from, loggers and progress."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from archgrad.architecture import Architecture
from archgrad.data import Data, described
from archgrad.distributed import raise_on_all_ranks, rank, restarted, world_size
from archgrad.engine.epochs import Engine
from archgrad.engine.on_epoch import listeners
from archgrad.engine.run import Result, Run
from archgrad.engine.run_options import RunOptions
from archgrad.errors import RunError
from archgrad.fast.native import why_missing
from archgrad.rank_state import seed_for_rank, send_state
from archgrad.runs import Progress, RunFolder, StopRequest, in_ipython, open_loggers

__all__ = ["opened"]


@contextmanager
def opened(
    run: Run[Result],
    options: RunOptions,
    *,
    config: Mapping[str, Any],
    data: Data,
    architecture: Architecture | None = None,
    said: str = "",
) -> Iterator[Engine[Result]]:
    """Open a run, bring it to its last checkpoint, and yield the engine that takes it to its end.

    Process 0 alone sees the run folder.

    Args:
        run: At its beginning.
        options: Of the run.
        config: All that goes into config.yaml.
        data: What the run's streams read; said first, and kept in environment.json.
        architecture: Copied into the run folder.
        said: What is said after the data.

    Raises:
        RunError: The run folder is in use, taken, or does not fit.
    """
    seed_for_rank(run.seed)
    about = described(data, [stream.samples for stream in run.streams])
    with ExitStack() as stack:
        folder, saved, moved = None, None, ""
        with raise_on_all_ranks():
            if options.run_dir is not None and rank() == 0:
                folder = run.folder = stack.enter_context(_open_folder(run, options, config))
                if architecture is not None:
                    folder.save_architecture(architecture)
                folder.record_environment(seed=run.seed, data=about.text)
                saved = folder.load_checkpoint()
        saves = options.run_dir is not None
        alone = world_size() == 1  # several processes without a folder end as Python ends them
        request = stack.enter_context(StopRequest(process_lives=not saves or in_ipython())) if saves or alone else None
        saved = send_state(saved)
        with raise_on_all_ranks():
            if saved is not None:
                moved = run.load_state_dict(saved)
            if folder is not None and folder.more_epochs:
                if run.told_to_stop:
                    raise RunError(
                        f"The run in '{folder.path}' was ended for good after epoch {run.epoch}, by patience or "
                        f"on_epoch, so that it does not go on with more epochs. Start a new run."
                    )
                folder.lengthen(folder.more_epochs)
            if folder is not None:
                folder.rewind(epochs=run.epoch)
                if not run.history:  # a retraining's checkpoint has none
                    run.history = list(folder.metrics.rows())
            if rank() == 0:
                run.loggers = stack.enter_context(
                    open_loggers(
                        None if folder is None else folder.path,
                        config=config,
                        first_epoch=run.epoch,
                        wandb=options.wandb,
                        mlflow=options.mlflow,
                        guard=None if folder is None else folder.guard,
                    )
                )
        run.history = send_state(run.history)
        progress = Progress(
            run.command,
            run.shown,
            epochs=run.epochs,
            steps=run.batches_per_epoch,
            device=run.device,
            unit=about.unit,
            log_frequency=options.log_frequency,
            quiet=options.quiet or rank() > 0,
        )
        run.progress = stack.enter_context(progress)
        progress.message(f"Data: {about.text}.")
        if slower := _without_kernels(run):
            progress.message(slower)
        if said:
            progress.message(said)
        if moved:
            progress.message(moved)
        yield Engine(
            run,
            schedule=options,
            request=request,
            saves=saves,
            on_epoch=listeners(options.on_epoch),
            max_minutes=options.max_minutes,
            patience=options.patience,
            watch=options.watch,
        )


def _without_kernels(run: Run[Any]) -> str:
    """Return what is said of a run on a CPU, of a system that kernels can be built for, which does without them."""
    if run.device.type != "cpu" or sys.platform != "linux" or not (why := why_missing()):
        return ""
    return f"The compiled kernels {why}, so that cells take longer on the CPU; `archgrad doctor` says what to do."


def _open_folder(run: Run[Any], options: RunOptions, config: Mapping[str, Any]) -> RunFolder:
    assert options.run_dir is not None
    # What was started again has its options from before, and must not begin anew.
    goes_on = options.resume is True
    if options.resume == "auto" or restarted():
        goes_on |= os.path.isfile(Path(options.run_dir) / "config.yaml")
    if goes_on:
        return RunFolder.resume(
            options.run_dir,
            command=run.command,
            config=config,
            may_differ=run.may_differ,
            fixed_length=run.fixed_length,
            modernised=run.modernised,
        )
    return RunFolder.create(options.run_dir, command=run.command, config=config, overwrite=options.overwrite)
