"""The loop of a retraining: epochs of steps, an evaluation after each, checkpoints between."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from archgrad.data import BatchStream
from archgrad.errors import RunError
from archgrad.retrain.evaluation import Evaluation
from archgrad.retrain.learner import Learner
from archgrad.retrain.totals import NonfiniteStep, Totals
from archgrad.runs import (
    CheckpointSchedule,
    Clock,
    Interrupted,
    Loggers,
    Progress,
    RunFolder,
    StopRequest,
    capture_random_state,
    memory_explained,
    peak_memory_mb,
    restore_random_state,
    save_tensors,
)

__all__ = ["Loop"]

_VERSION = 1


class Loop:
    """Trains from wherever it stands to the last epoch.

    Args:
        learner: Takes the steps.
        stream: Gives the batches.
        evaluate: Evaluates the network on the test set; None where there is none.
        schedule: When checkpoints are written.
        folder: Where everything goes; None writes nothing.
        progress: Shows what happens.
        request: Says whether to stop; None never does.

    Attributes:
        epoch: The current epoch, 0-based.
        step: The next step in it, 0-based.
        best_accuracy: On the test set so far.
        best_epoch: Its epoch.
        history: One row an epoch.
        loggers: Where rows go besides.
    """

    def __init__(
        self,
        learner: Learner,
        stream: BatchStream,
        evaluate: Callable[[], Evaluation | None],
        *,
        schedule: CheckpointSchedule,
        folder: RunFolder | None,
        progress: Progress,
        request: StopRequest | None,
    ) -> None:
        self.epoch = self.step = 0
        self.best_accuracy: float | None = None
        self.best_epoch: int | None = None
        self.history: list[dict[str, Any]] = []
        self.clock = Clock()
        self.loggers = Loggers([])
        self._learner = learner
        self._recipe = learner.recipe
        self._stream = stream
        self._evaluate = evaluate
        self._schedule = schedule
        self._folder = folder
        self._progress = progress
        self._request = request
        self._saved_at = time.perf_counter()
        self._steps_since_save = 0

    def run(self) -> Evaluation | None:
        """Train to the end, and return the evaluation after the last epoch.

        Raises:
            RunError: Loss or gradient are not finite, memory is short, or the disk is.
            Interrupted: A signal came; the state was saved.
        """
        evaluation = None
        batches = self._stream.batches(self.epoch * self._stream.batches_per_epoch + self.step)
        with self._explained():
            while self.epoch < self._recipe.epochs:
                self._train_epoch(batches)
                evaluation = self._evaluate()
                self.clock.evaluating += self.clock.tick()
                self._end_epoch(evaluation)
            return self._evaluate() if evaluation is None else evaluation

    def _train_epoch(self, batches: Iterator[Any]) -> None:
        self._learner.start_epoch(self.epoch)
        self._progress.start_epoch(self.epoch)
        while self.step < self._stream.batches_per_epoch:
            waited = self._stream.waiting_seconds
            inputs, targets = next(batches)
            self.clock.waiting += self._stream.waiting_seconds - waited
            self._learner.train_step(self.step, inputs, targets)
            self._progress.step(self.step, images=len(targets), read=self._figures)
            self.step += 1
            self._steps_since_save += 1
            self._save_if_due()
        self._learner.totals.read()
        if not self._learner.totals.steps:
            raise RunError(
                f"Not one step of epoch {self.epoch} had a finite loss and gradient, so nothing is learnt. "
                f"Start anew with a lower learning_rate or precision='32'."
            )
        self.clock.tick()

    def _figures(self) -> dict[str, float | None]:
        self._learner.totals.read()
        return self._learner.totals.means()

    def _end_epoch(self, evaluation: Evaluation | None) -> None:
        means = self._learner.totals.means()
        row = {
            "epoch": self.epoch,
            "learning_rate": self._recipe.learning_rate_in(self.epoch),
            "drop_path": self._recipe.drop_path_in(self.epoch),
            "train_loss": means["train_loss"],
            "train_accuracy": means["train_accuracy"],
            "test_loss": evaluation.loss if evaluation else None,
            "test_accuracy": evaluation.accuracy if evaluation else None,
            "weights_gradient_norm": means["weights_gradient_norm"],
        }
        self.history.append(row)
        self._progress.end_epoch(row)
        if evaluation and (self.best_accuracy is None or evaluation.accuracy > self.best_accuracy):
            self.best_accuracy, self.best_epoch = evaluation.accuracy, self.epoch
            if self._folder is not None:
                save_tensors(self._folder.weights / "best.safetensors", self._learner.weights())
        timings = self._timings()
        if self._folder is not None:
            self._folder.metrics.append(row)
            self._folder.timings.append(timings)
        self.loggers.log_metrics(row, self.epoch)
        self.loggers.log_metrics(timings, self.epoch)
        self.epoch, self.step = self.epoch + 1, 0
        self._learner.totals = Totals()
        self.clock.start_epoch()
        self._save()
        self._stop_if_asked()

    def _timings(self) -> dict[str, Any]:
        self.clock.tick()
        return {
            "epoch": self.epoch,
            "seconds": self.clock.epoch,
            "images_per_second": self._learner.totals.samples / self.clock.training,
            "peak_memory_mb": peak_memory_mb(self._learner.device),
            "waiting_share": self.clock.waiting / self.clock.training,
            "checkpoint_seconds": self.clock.saving,
        }

    # --- checkpoints and interruptions --------------------------------------------------------------------------------

    def _save_if_due(self) -> None:
        asked = self._request is not None and self._request.requested
        due = self._schedule.is_due(steps=self._steps_since_save, seconds=time.perf_counter() - self._saved_at)
        if asked or due:
            self._save()
        self._stop_if_asked()

    def _save(self) -> None:
        self._learner.totals.read()  # nothing is saved after a step that was not finite
        self._saved_at = time.perf_counter()
        self._steps_since_save = 0
        if self._folder is None:
            return
        self.clock.tick()
        self._folder.save_checkpoint(self._state())
        self.clock.saving += self.clock.tick()

    def _stop_if_asked(self) -> None:
        if self._request is None or self._request.signal_number is None or self.epoch == self._recipe.epochs:
            return
        assert self._folder is not None
        error = Interrupted(self._request.signal_number)
        self._progress.message(
            f"Retraining was {error} in epoch {self.epoch}, before step {self.step}; it is saved in "
            f"'{self._folder.path}'. Go on with resume=True (archgrad retrain --resume {self._folder.path})."
        )
        raise error

    def _state(self) -> dict[str, Any]:
        return {
            "kind": "retrain",
            "version": _VERSION,
            "epoch": self.epoch,
            "step": self.step,
            "batches_per_epoch": self._stream.batches_per_epoch,
            "best_accuracy": self.best_accuracy,
            "best_epoch": self.best_epoch,
            "clock": asdict(self.clock),
            "learner": self._learner.state(),
            "random": capture_random_state(),
        }

    def restore(self, state: Any) -> None:
        """Go on from a checkpoint; None begins at the beginning, and what the run folder has of later epochs goes.

        Raises:
            RunError: The checkpoint is not one of this run.
        """
        assert self._folder is not None
        if state is None:
            self._folder.rewind(epochs=0)
            return
        if not isinstance(state, dict) or state.get("kind") != "retrain" or state.get("version") != _VERSION:
            raise RunError(f"The checkpoint in '{self._folder.path}' is not one of a retraining. Check the folder.")
        try:
            self._restore(state)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise RunError(
                f"The checkpoint in '{self._folder.path}' lacks what a retraining goes on from ({error!r}). "
                f"Check the folder."
            ) from error
        self._folder.rewind(epochs=self.epoch)
        self.history = list(self._folder.metrics.rows())

    def _restore(self, state: dict[str, Any]) -> None:
        if state["batches_per_epoch"] != self._stream.batches_per_epoch:
            raise RunError(
                f"The run had {state['batches_per_epoch']} batches per epoch, but the data now gives "
                f"{self._stream.batches_per_epoch}. Go on with the data that the run was started with."
            )
        self._learner.load_state(state["learner"])
        restore_random_state(state["random"])
        self.epoch, self.step = state["epoch"], state["step"]
        self.best_accuracy, self.best_epoch = state["best_accuracy"], state["best_epoch"]
        self.clock = Clock(**state["clock"])

    # --- errors -------------------------------------------------------------------------------------------------------

    @contextmanager
    def _explained(self) -> Iterator[None]:
        remedies = (
            f"a smaller batch_size (now {self._recipe.batch_size}); gradient accumulation, which keeps the batch "
            f"(accumulation={2 * self._recipe.accumulation}); activation checkpointing in the network "
            f"(torch.utils.checkpoint around its cells)."
        )
        try:
            with memory_explained(remedies):
                yield
        except NonfiniteStep as error:
            raise RunError(self._explain_nonfinite(error)) from error

    def _explain_nonfinite(self, error: NonfiniteStep) -> str:
        kept = f" The last good checkpoint is kept in '{self._folder.path}'." if self._folder is not None else ""
        weights_norm = self._learner.weights_norm()
        broken = "" if math.isfinite(weights_norm) else " (after the step)"
        return (
            f"Training stopped in epoch {self.epoch} at step {error.step}: loss {error.loss:g}, gradient norm "
            f"{error.gradient_norm:g}, weights norm {weights_norm:g}{broken}.{kept} Start anew with a lower "
            f"learning_rate{' or precision=32' if self._recipe.precision == 'bf16' else ''}, or go on with "
            f"on_nonfinite='skip'."
        )
