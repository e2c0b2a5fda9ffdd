"""The loop of a retraining: epochs of steps, an evaluation after each, checkpoints between."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from archgrad.buffers import set_buffers
from archgrad.data import BatchStream
from archgrad.distributed import (
    Wishes,
    announce,
    broadcast_tensors,
    check_same,
    forget_wishes,
    heard,
    largest_over_ranks,
    rank,
    world_size,
)
from archgrad.errors import NonFiniteError, RunError
from archgrad.json_text import shown
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
    checkpoint_explained,
    count_in,
    memory_explained,
    numbers_in,
    peak_memory_mb,
    restore_random_state,
)
from archgrad.sharing import describe_move, gather_parts, moved_step, own_buffers, place_buffers, seed_for_rank

__all__ = ["Loop"]

_VERSION = 1
_STEPS_BETWEEN_LOOKS = 20


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
            NonFiniteError: Loss or gradient are not finite.
            RunError: Memory is short, or the disk is.
            Interrupted: A signal came; the state was saved.
        """
        forget_wishes()
        evaluation = None
        batches = self._stream.batches(self.epoch * self._stream.batches_per_epoch + self.step)
        with self._explained():
            while self.epoch < self._recipe.epochs:
                self._train_epoch(batches)
                self._agree()
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
            announce(self._wishes(steps=self._steps_since_save + 1))
            self._learner.train_step(self.step, inputs, targets)
            self._progress.step(self.step, images=len(targets) * world_size(), read=self._figures)
            self.step += 1
            self._steps_since_save += 1
            self._save_if_due()
        self._learner.totals.read()
        if not self._learner.totals.steps:
            raise NonFiniteError(
                f"Not one step of epoch {self.epoch + 1} had a finite loss and gradient, so nothing is learnt. "
                f"Start anew with a lower learning_rate or precision='32'."
            )
        self.clock.tick()

    def _figures(self) -> dict[str, float | None]:
        self._learner.totals.read()
        return self._learner.totals.means()

    def _end_epoch(self, evaluation: Evaluation | None) -> None:
        totals = self._learner.totals.over_ranks()
        means = totals.means()
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
                self._folder.save_tensors("weights/best.safetensors", self._learner.weights())
        timings = self._timings(totals.samples)
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

    def _timings(self, images: int) -> dict[str, Any]:
        self.clock.tick()
        return {
            "epoch": self.epoch,
            "seconds": self.clock.epoch,
            "images_per_second": images / self.clock.training,
            "peak_memory_mb": peak_memory_mb(self._learner.device),
            "waiting_share": self.clock.waiting / self.clock.training,
            "checkpoint_seconds": self.clock.saving,
        }

    # --- checkpoints and interruptions --------------------------------------------------------------------------------

    def _agree(self) -> None:
        """Take over process 0's buffers, and make sure that the processes hold the same weights."""
        broadcast_tensors(self._learner.network.buffers())
        check_same({"weights": self._learner.network.parameters()}, when=f"after epoch {self.epoch + 1}")

    def _wishes(self, *, steps: int) -> Wishes:
        """Return what this process wants so many steps after the last checkpoint."""
        return Wishes(
            stop=self._request is not None and self._request.requested,
            save=self._folder is not None
            and self._schedule.is_due(steps=steps, seconds=time.perf_counter() - self._saved_at),
        )

    def _agreed(self) -> Wishes:
        """Return what any process wanted when the last step began; with one process, what it wants now.

        On a GPU the answer is waited for, so it is looked at only now and then, by all processes at the same steps.
        """
        if world_size() == 1:
            return self._wishes(steps=self._steps_since_save)
        looks = self._learner.device.type == "cpu" or self.step % _STEPS_BETWEEN_LOOKS == 0
        return heard() if looks else Wishes()

    def _save_if_due(self) -> None:
        wishes = self._agreed()
        if wishes.save or wishes.stop:
            self._save()
        self._stop_if_asked()

    def _save(self) -> None:
        self._learner.totals.read()  # nothing is saved after a step that was not finite
        self._saved_at = time.perf_counter()
        self._steps_since_save = 0
        if self._request is None:  # there is no run folder
            return
        self.clock.tick()
        state = self._state()
        if self._folder is not None:
            self._folder.save_checkpoint(state)
        self.clock.saving += self.clock.tick()

    def _stop_if_asked(self) -> None:
        if self._request is None or self.epoch == self._recipe.epochs or not self._agreed().stop:
            return
        error = Interrupted(largest_over_ranks(self._request.signal_number or 0))  # none leaves before all is saved
        if self._folder is not None:
            self._progress.message(
                f"Retraining was {error} in epoch {self.epoch + 1}, before step {self.step + 1}; it is saved in "
                f"'{self._folder.path}'. Go on with resume=True (archgrad retrain --resume {self._folder.path})."
            )
        raise error

    def _state(self) -> dict[str, Any]:
        own = {
            "totals": self._learner.totals.state(),
            "random": capture_random_state(),
            "buffers": own_buffers(self._learner.network),
        }
        return {
            "kind": "retrain",
            "version": _VERSION,
            "epoch": self.epoch,
            "step": self.step,
            "batch": self._recipe.batch_size * world_size(),
            "batches_per_epoch": self._stream.batches_per_epoch,
            "best_accuracy": self.best_accuracy,
            "best_epoch": self.best_epoch,
            "clock": asdict(self.clock),
            "learner": self._learner.state(),
            "ranks": gather_parts(own),
        }

    def restore(self, state: Any) -> None:
        """Go on from a checkpoint; None begins at the beginning, and what the run folder has of later epochs goes.

        Raises:
            RunError: The checkpoint is not one of this run.
        """
        if state is None:
            if self._folder is not None:
                self._folder.rewind(epochs=0)
            return
        if not isinstance(state, dict) or state.get("kind") != "retrain" or state.get("version") != _VERSION:
            raise RunError("The checkpoint in the run folder is not one of a retraining. Check the folder.")
        with checkpoint_explained("retraining"):
            self._restore(state)
        if self._folder is not None:
            self._folder.rewind(epochs=self.epoch)
            self.history = list(self._folder.metrics.rows())

    def _restore(self, state: dict[str, Any]) -> None:
        parts, batches = state["ranks"], self._stream.batches_per_epoch
        if len(parts) == world_size() and state["batches_per_epoch"] != batches:
            raise RunError(
                f"The run had {shown(state['batches_per_epoch'])} batches per epoch, but the data now gives "
                f"{batches}. Go on with the data that the run was started with."
            )
        place_buffers(self._learner.network, parts, state["learner"]["network"], device=self._learner.device)
        self._learner.load_state(state["learner"])
        self.epoch, self.step = count_in(state, "epoch"), count_in(state, "step")
        if len(parts) == world_size():
            self._restore_own(parts[rank()])
        else:
            self._learner.totals = Totals.shared([part["totals"] for part in parts], mine=rank())
            self.step = moved_step(
                self.step,
                batch_before=count_in(state, "batch", least=1),
                batches_before=count_in(state, "batches_per_epoch", least=1),
                batch=self._recipe.batch_size * world_size(),
                batches=batches,
            )
            seed_for_rank(self._recipe.seed, self.epoch, self.step)
            self._progress.message(describe_move(len(parts), epoch=self.epoch, step=self.step, batches=batches))
        best = numbers_in({name: state[name] for name in ("best_accuracy", "best_epoch")}, "the best epoch", none=True)
        self.best_accuracy, self.best_epoch = best.values()
        self.clock = Clock(**numbers_in(state["clock"], "the clock", finite=True))

    def _restore_own(self, own: dict[str, Any]) -> None:
        self._learner.totals = Totals.of(own["totals"])
        # Again, as the state dict has process 0's running statistics.
        set_buffers(self._learner.network, own.get("buffers", {}), device=self._learner.device)
        restore_random_state(own["random"])

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
            raise NonFiniteError(self._explain_nonfinite(error)) from error

    def _explain_nonfinite(self, error: NonfiniteStep) -> str:
        kept = f" The last good checkpoint is kept in '{self._folder.path}'." if self._folder is not None else ""
        weights_norm = self._learner.weights_norm()
        broken = "" if math.isfinite(weights_norm) else " (after the step)"
        return (
            f"Training stopped in epoch {self.epoch + 1} at step {error.step + 1}: loss {error.loss:g}, gradient norm "
            f"{error.gradient_norm:g}, weights norm {weights_norm:g}{broken}.{kept} Start anew with a lower "
            f"learning_rate{' or precision=32' if self._recipe.precision == 'bf16' else ''}, or go on with "
            f"on_nonfinite='skip'."
        )
