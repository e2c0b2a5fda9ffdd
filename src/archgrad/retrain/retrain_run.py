"""A retraining as a run of the engine: epochs of steps, an evaluation after each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from archgrad.data import InfiniteLoader
from archgrad.distributed import rank, world_size
from archgrad.engine import EpochSummary, Run, RunOptions
from archgrad.engine.path_choice import PathChoice
from archgrad.errors import NonFiniteError, RunError
from archgrad.fast import asked_path
from archgrad.json_text import shown
from archgrad.options import names_of
from archgrad.rank_state import place_buffers
from archgrad.retrain.evaluation import Evaluation
from archgrad.retrain.learner import Learner
from archgrad.retrain.totals import NonfiniteStep, Totals
from archgrad.runs import numbers_in
from archgrad.tasks import Measure

__all__ = ["RetrainRun"]

_VERSION = 1
_STEPS_BETWEEN_LOOKS = 20
_NETWORK = "network"  # the only one
_DROP_PATH = "the rate of drop_path grows over them. Only drop_path=0 leaves that open"


class RetrainRun(Run[Evaluation | None]):
    """Trains a network; its result is the evaluation after the last epoch.

    Args:
        learner: Takes the steps.
        stream: Gives the batches.
        evaluate: Evaluates the network on the test set; None where there is none.

    Attributes:
        best_value: Of the task's metric that "best" goes by, on the test set so far.
        best_epoch: Its epoch.
    """

    command, title, kind = "retrain", "Retraining", "retraining"
    may_differ = (*names_of(RunOptions), "on_nonfinite")

    def __init__(self, learner: Learner, stream: InfiniteLoader, evaluate: Callable[[], Evaluation | None]) -> None:
        recipe = self._recipe = learner.recipe
        super().__init__(
            learner.network,
            (stream,),
            device=learner.device,
            epochs=recipe.epochs,
            batch_size=recipe.batch_size,
            seed=recipe.seed,
            fixed_length=recipe.fixed_length or (_DROP_PATH if learner.has_drop_path and recipe.drop_path else ""),
        )
        self.steps_between_looks = 1 if learner.device.type == "cpu" else _STEPS_BETWEEN_LOOKS
        self.best_value: float | None = None
        self.best_epoch: int | None = None
        self._learner, self._evaluate = learner, evaluate
        best, self.directions = learner.task.best, learner.task.directions
        self.shown = tuple(dict.fromkeys(f"{part}_{name}" for part in ("train", "test") for name in ("loss", best)))
        self._evaluation: Evaluation | None = None
        self._paths, self._path_is_open = PathChoice(learner.device), False

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

    @staticmethod
    def modernised(config: dict[str, Any]) -> dict[str, Any]:
        # which earlier versions did not say
        config = {"schedule": "cosine", "learning_rate_decay": 0.97, "warmup_epochs": 0, **config}
        if isinstance(fast := config.get("fast"), bool):  # as they had it
            config["fast"] = asked_path(fast)
        return config

    # --- an epoch -----------------------------------------------------------------------------------------------------

    def start_epoch(self) -> None:
        self._learner.start_epoch(self.epoch)
        path = self._learner.path
        self._path_is_open = path is not None and self._paths.is_open(_NETWORK, path, self.folder)

    def take_step(self, batches: Sequence[tuple[Any, Any]]) -> None:
        ((inputs, targets),) = batches
        if self._path_is_open and self._learner.path is not None:
            trial = self._learner.trial(self._learner.path, inputs, targets)
            self._paths.decide(_NETWORK, trial, self.folder, self.progress.message)
            self._path_is_open = False
        self._learner.train_step(self.step, inputs, targets)

    def settle(self) -> None:
        self._learner.totals.read()

    def figures(self) -> Mapping[str, Any]:
        self.settle()
        of_task = self._learner.measure.values() if self._learner.totals.steps else {}
        return {**self._learner.totals.means(), **_columns("train", of_task)}

    def end_epoch(self) -> EpochSummary:
        """Evaluate, keep the weights if they are the best so far, and begin the sums of the next epoch."""
        if not self._learner.totals.steps:
            raise NonFiniteError(
                f"Not one step of epoch {self.epoch + 1} had a finite loss and gradient, so nothing is learnt. "
                f"Start anew with a lower learning_rate or precision='32'."
            )
        evaluation = self._evaluation = self._evaluate()
        self.clock.evaluating += self.clock.tick()
        task = self._learner.task
        totals, self._learner.totals = self._learner.totals.over_ranks(), Totals()
        measure, self._learner.measure = self._learner.measure.over_ranks(), Measure(task)
        means, test = totals.means(), dict(evaluation.metrics) if evaluation else dict.fromkeys(task.metrics)
        row = {
            "epoch": self.epoch,
            "learning_rate": self._recipe.learning_rate_in(self.epoch),
            "drop_path": self._recipe.drop_path_in(self.epoch),
            "train_loss": means["train_loss"],
            **_columns("train", measure.values()),
            "test_loss": evaluation.loss if evaluation else None,
            **_columns("test", test),
            "weights_gradient_norm": means["weights_gradient_norm"],
        }
        if evaluation and task.better(value := evaluation.value(str(task.best)), self.best_value):
            self.best_value, self.best_epoch = value, self.epoch
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
            "best_value": self.best_value,
            "best_epoch": self.best_epoch,
            "learner": self._learner.state(),
        }

    def sums_state(self) -> dict[str, Any]:
        return {"totals": self._learner.totals.state(), "measure": self._learner.measure.state()}

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
        best_value = state["best_value" if "best_value" in state else "best_accuracy"]  # as earlier versions called it
        best = numbers_in({"value": best_value, "epoch": state["best_epoch"]}, "the best epoch", none=True)
        self.best_value, self.best_epoch = best.values()
        sums = [_modernised(part) for part in parts]
        if len(parts) == world_size():
            self._learner.totals = Totals.of(sums[rank()][0])
            self._learner.measure.load([sums[rank()][1]])
        else:
            self._learner.totals = Totals.shared([totals for totals, _ in sums], mine=rank())
            self._learner.measure.load([measure for _, measure in sums] if rank() == 0 else [])

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
            f"learning_rate{' or precision=32' if self._recipe.precision in ('bf16', 'fp16') else ''}, or go on with "
            f"on_nonfinite='skip'."
        )


def _columns(part: str, metrics: Mapping[str, float | None]) -> dict[str, float | None]:
    """Return the metrics of a part of the data under the names of their columns."""
    return {f"{part}_{name}": value for name, value in metrics.items()}


def _modernised(part: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the sums of an epoch and those of its metrics; earlier versions counted hits among the former."""
    totals, measure = dict(part["totals"]), part.get("measure", {})
    if "correct" in totals:
        hits = numbers_in({"total": totals.pop("correct"), "count": totals["samples"]}, "the hits", finite=True)
        state = {name: torch.tensor(value, dtype=torch.float64) for name, value in hits.items()}
        measure = {"accuracy": state} if hits["count"] else {}
    return totals, measure
