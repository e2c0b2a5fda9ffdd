"""A retraining as a task of the engine: epochs of steps, an evaluation after each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from archgrad.data import InfiniteLoader
from archgrad.distributed import rank, world_size
from archgrad.engine import EpochSummary, RunOptions, Task
from archgrad.errors import NonFiniteError, RunError
from archgrad.json_text import shown
from archgrad.options import names_of
from archgrad.rank_state import place_buffers
from archgrad.retrain.evaluation import Evaluation
from archgrad.retrain.learner import Learner
from archgrad.retrain.totals import NonfiniteStep, Totals
from archgrad.runs import numbers_in

__all__ = ["RetrainTask"]

_VERSION = 1
_STEPS_BETWEEN_LOOKS = 20


class RetrainTask(Task[Evaluation | None]):
    """Trains a network; its result is the evaluation after the last epoch.

    Args:
        learner: Takes the steps.
        stream: Gives the batches.
        evaluate: Evaluates the network on the test set; None where there is none.

    Attributes:
        best_accuracy: On the test set so far.
        best_epoch: Its epoch.
    """

    command, title, kind = "retrain", "Retraining", "retraining"
    may_differ = (*names_of(RunOptions), "on_nonfinite")
    shown = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")

    def __init__(self, learner: Learner, stream: InfiniteLoader, evaluate: Callable[[], Evaluation | None]) -> None:
        recipe = self._recipe = learner.recipe
        super().__init__(
            learner.network,
            (stream,),
            device=learner.device,
            epochs=recipe.epochs,
            batch_size=recipe.batch_size,
            seed=recipe.seed,
        )
        self.steps_between_looks = 1 if learner.device.type == "cpu" else _STEPS_BETWEEN_LOOKS
        self.best_accuracy: float | None = None
        self.best_epoch: int | None = None
        self._learner, self._evaluate = learner, evaluate
        self._evaluation: Evaluation | None = None

    @property
    def remedies(self) -> str:
        return (
            f"a smaller batch_size (now {self._recipe.batch_size}); gradient accumulation, which keeps the batch "
            f"(accumulation={2 * self._recipe.accumulation}); activation checkpointing in the network "
            f"(torch.utils.checkpoint around its cells)."
        )

    @property
    def replicated(self) -> Mapping[str, Iterable[Tensor]]:
        return {"weights": self.network.parameters()}

    # --- an epoch -----------------------------------------------------------------------------------------------------

    def start_epoch(self) -> None:
        self._learner.start_epoch(self.epoch)

    def take_step(self, batches: Sequence[tuple[Any, Tensor]]) -> None:
        ((inputs, targets),) = batches
        self._learner.train_step(self.step, inputs, targets)

    def settle(self) -> None:
        self._learner.totals.read()

    def figures(self) -> Mapping[str, Any]:
        self.settle()
        return self._learner.totals.means()

    def end_epoch(self) -> EpochSummary:
        """Evaluate, keep the weights if they are the best so far, and begin the sums of the next epoch."""
        if not self._learner.totals.steps:
            raise NonFiniteError(
                f"Not one step of epoch {self.epoch + 1} had a finite loss and gradient, so nothing is learnt. "
                f"Start anew with a lower learning_rate or precision='32'."
            )
        evaluation = self._evaluation = self._evaluate()
        self.clock.evaluating += self.clock.tick()
        totals, self._learner.totals = self._learner.totals.over_ranks(), Totals()
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
        if evaluation and (self.best_accuracy is None or evaluation.accuracy > self.best_accuracy):
            self.best_accuracy, self.best_epoch = evaluation.accuracy, self.epoch
            if self.folder is not None:
                self.folder.save_tensors("weights/best.safetensors", self._learner.weights())
        return EpochSummary(row, row, totals.samples)

    def result(self) -> Evaluation | None:
        return self._evaluate() if self._evaluation is None else self._evaluation

    # --- checkpoints --------------------------------------------------------------------------------------------------

    def common_state(self) -> dict[str, Any]:
        return {
            "kind": "retrain",
            "version": _VERSION,
            "best_accuracy": self.best_accuracy,
            "best_epoch": self.best_epoch,
            "learner": self._learner.state(),
        }

    def sums_state(self) -> dict[str, Any]:
        return {"totals": self._learner.totals.state()}

    def check_state(self, state: Any) -> None:
        if not isinstance(state, dict) or state.get("kind") != "retrain" or state.get("version") != _VERSION:
            raise RunError("The checkpoint in the run folder is not one of a retraining. Check the folder.")

    def load_states(self, state: Mapping[str, Any], parts: Sequence[Mapping[str, Any]]) -> None:
        if len(parts) == world_size() and state["batches_per_epoch"] != self.batches_per_epoch:
            raise RunError(
                f"The run had {shown(state['batches_per_epoch'])} batches per epoch, but the data now gives "
                f"{self.batches_per_epoch}. Go on with the data that the run was started with."
            )
        place_buffers(self.network, parts, state["learner"]["network"], device=self.device)
        self._learner.load_state(state["learner"])
        best = numbers_in({name: state[name] for name in ("best_accuracy", "best_epoch")}, "the best epoch", none=True)
        self.best_accuracy, self.best_epoch = best.values()
        self._learner.totals = (
            Totals.of(parts[rank()]["totals"])
            if len(parts) == world_size()
            else Totals.shared([part["totals"] for part in parts], mine=rank())
        )

    # --- errors -------------------------------------------------------------------------------------------------------

    @contextmanager
    def explained(self) -> Iterator[None]:
        try:
            with super().explained():
                yield
        except NonfiniteStep as error:
            raise NonFiniteError(self._explain_nonfinite(error)) from error

    def _explain_nonfinite(self, error: NonfiniteStep) -> str:
        kept = f" The last good checkpoint is kept in '{self.folder.path}'." if self.folder is not None else ""
        weights_norm = self._learner.weights_norm()
        broken = "" if math.isfinite(weights_norm) else " (after the step)"
        return (
            f"Training stopped in epoch {self.epoch + 1} at step {error.step + 1}: loss {error.loss:g}, gradient norm "
            f"{error.gradient_norm:g}, weights norm {weights_norm:g}{broken}.{kept} Start anew with a lower "
            f"learning_rate{' or precision=32' if self._recipe.precision == 'bf16' else ''}, or go on with "
            f"on_nonfinite='skip'."
        )
