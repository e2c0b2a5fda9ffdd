"""The loop: steps and epochs of a run, checkpoints between, and a clean end when a signal comes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Generic

from archgrad.batches import count
from archgrad.distributed import (
    ControlFlags,
    agreed_control_flags,
    broadcast_tensors,
    check_same,
    largest_over_ranks,
    reset_control_flags,
    set_control_flags,
    world_size,
)
from archgrad.engine.on_epoch import EpochState, OnEpoch, asks_to_stop
from archgrad.engine.patience import has_stalled
from archgrad.engine.run import Result, Run
from archgrad.runs import CheckpointSchedule, Halted, Interrupted, OutOfTime, StopRequest, peak_memory_mb
from archgrad.terminal import is_typed

__all__ = ["Engine"]


_WATCHED = {"search": "valid_loss", "retrain": "test_loss"}


class Engine(Generic[Result]):
    """Takes a run from wherever it stands to its end.

    Args:
        run: A search or a retraining.
        schedule: When checkpoints are written, besides the one after each epoch.
        request: Says whether to stop; None where nothing can ask.
        saves: Whether there is a run folder, on any process; else nothing is saved.
        on_epoch: Called at the end of each epoch.
        max_minutes: From now until the run is saved and ends; None sets no limit.
        patience: See `RunOptions`.
        watch: See `RunOptions`.
    """

    def __init__(
        self,
        run: Run[Result],
        *,
        schedule: CheckpointSchedule,
        request: StopRequest | None,
        saves: bool,
        on_epoch: Sequence[OnEpoch] = (),
        max_minutes: float | None = None,
        patience: int | None = None,
        watch: str | None = None,
    ) -> None:
        self._run, self._schedule, self._request, self._saves = run, schedule, request, saves
        self._on_epoch, self._max_minutes = on_epoch, max_minutes
        self._patience, self._watch = patience, watch or _WATCHED[run.command]
        self._steps_since_save, self._saved_at = 0, time.perf_counter()
        self._began = self._saved_at

    def run(self) -> Result:
        """Go on to the end of the run and return what it came to.

        Raises:
            NonFiniteError: Loss or gradient are not finite.
            RunError: Memory is short, or the disk is; or another process is gone.
            Interrupted: A signal came, or the time is up; the state was saved.
            Halted: Ctrl-C came, and the process is to live on.
        """
        reset_control_flags()
        run = self._run
        with run.explained():
            while not run.finished:
                self._take_steps()
                self._end_epoch()
            return run.result()

    def _take_steps(self) -> None:
        run = self._run
        run.start_epoch()  # which may open other streams
        run.progress.start_epoch(run.epoch)
        batches = zip(*(stream.batches(run.batches_done) for stream in run.streams), strict=True)
        while run.step < run.batches_per_epoch:
            waited = run.waiting_seconds
            of_streams = next(batches)
            run.clock.waiting += run.waiting_seconds - waited
            set_control_flags(self._own_flags(steps=self._steps_since_save + 1))
            run.take_step(of_streams)
            samples = count(of_streams[0][1]) * world_size()
            run.progress.step(run.step, samples=samples, read=run.figures)
            run.step += 1
            self._steps_since_save += 1
            self._save_if_due()

    def _end_epoch(self) -> None:
        run = self._run
        run.settle()
        run.clock.tick()
        self._agree()
        summary = run.end_epoch()
        run.clock.tick()
        timings = {
            "epoch": run.epoch,
            "seconds": run.clock.epoch,
            "images_per_second": summary.images / run.clock.training,
            "peak_memory_mb": peak_memory_mb(run.device),
            "waiting_share": run.clock.waiting / run.clock.training,
            "checkpoint_seconds": run.clock.saving,
        }
        run.history.append(summary.row)
        if run.folder is not None:
            run.folder.metrics.append(summary.row)
            run.folder.timings.append(timings)
        run.loggers.log_metrics({**summary.row, **timings}, run.epoch)
        run.progress.end_epoch(summary.shown)
        run.publish_epoch()
        self._tell(summary.row)
        run.epoch, run.step = run.epoch + 1, 0
        run.clock.start_epoch()
        self._save()
        self._stop_if_asked()

    def _tell(self, row: Mapping[str, Any]) -> None:
        run = self._run
        architecture, network = run.told()
        state = EpochState(
            epoch=run.epoch,
            epochs=run.epochs,
            row=MappingProxyType(dict(row)),
            architecture=architecture,
            network=network,
        )
        run.told_to_stop = asks_to_stop(self._on_epoch, state)
        if run.told_to_stop:
            run.progress.message(f"Stopped after epoch {run.epoch + 1}: on_epoch asked for it.")
        elif self._patience and has_stalled(
            run.history, patience=self._patience, watch=self._watch, directions=run.directions
        ):
            run.told_to_stop = True
            run.progress.message(
                f"Stopped after epoch {run.epoch + 1}: {self._watch} has not got better for {self._patience} epochs."
            )

    def _agree(self) -> None:
        """Take over process 0's buffers, and make sure that the processes hold the same network."""
        broadcast_tensors(self._run.network.buffers())
        check_same(self._run.replicated, when=f"after epoch {self._run.epoch + 1}")

    # --- checkpoints and interruptions --------------------------------------------------------------------------------

    def _own_flags(self, *, steps: int) -> ControlFlags:
        """Return what this process wants so many steps after the last checkpoint."""
        seconds = time.perf_counter() - self._saved_at
        return ControlFlags(
            stop=self._request is not None and (self._request.requested or self._out_of_time()),
            save=self._run.folder is not None and self._schedule.is_due(steps=steps, seconds=seconds),
        )

    def _out_of_time(self) -> bool:
        return self._max_minutes is not None and time.perf_counter() - self._began >= 60.0 * self._max_minutes

    def _agreed_flags(self) -> ControlFlags:
        """Return what any process wanted when the last step began; with one process, what it wants now."""
        if world_size() == 1:
            return self._own_flags(steps=self._steps_since_save)
        # All processes look at the same steps.
        return agreed_control_flags() if self._run.step % self._run.steps_between_looks == 0 else ControlFlags()

    def _save_if_due(self) -> None:
        flags = self._agreed_flags()
        if flags.save or flags.stop:
            self._save()
        self._stop_if_asked()

    def _save(self) -> None:
        run = self._run
        run.settle()  # nothing is saved after a step that was not finite
        self._steps_since_save, self._saved_at = 0, time.perf_counter()
        if not self._saves:
            return
        run.clock.tick()
        state = run.state_dict()
        if run.folder is not None:
            run.folder.save_checkpoint(state)
        run.clock.saving += run.clock.tick()

    def _stop_if_asked(self) -> None:
        run = self._run
        if self._request is None or run.finished or not self._agreed_flags().stop:
            return
        signal_number = largest_over_ranks(self._request.signal_number or 0)  # none leaves before all is saved
        error: Halted | Interrupted
        if not signal_number:
            error = OutOfTime(self._max_minutes or 0.0)
        elif self._request.process_lives:
            error = Halted()
        else:
            error = Interrupted(signal_number)
        if run.folder is not None:
            said = "interrupted" if isinstance(error, Halted) else str(error)
            advice = "" if is_typed() else " Go on with resume=True."  # a command says itself how it goes on
            run.progress.message(
                f"{run.title} was {said} in epoch {run.epoch + 1}, before step {run.step + 1}; it is saved in "
                f"'{run.folder.path}'.{advice}"
            )
        raise error
