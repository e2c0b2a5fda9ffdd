"""The options of a search or a retraining that say what is learnt."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from archgrad.checks import check_word
from archgrad.data import Data, targets_of
from archgrad.data.dataset import Part
from archgrad.errors import OptionError
from archgrad.losses import Loss
from archgrad.options import Options, values_of
from archgrad.tasks.base_task import Task
from archgrad.tasks.choose import Chosen, chosen_task, loss_of_name, metrics_by_name
from archgrad.tasks.weighting import ClassWeights, class_weights_of, numbers_of, sampling_weights_of

__all__ = ["TaskOptions", "check_function"]


@dataclass(frozen=True, kw_only=True)
class TaskOptions(Options):
    """What is learnt, and how it is measured."""

    task: Task | str | None = None
    """What is learnt: "classification", "multilabel", "regression", "segmentation", "sequence", or an
    `archgrad.tasks.Task`. By default what the targets tell."""
    loss: Any | str | None = None
    """Function of (outputs, targets) (see `archgrad.losses.Loss`), or a name: "cross-entropy", "binary-cross-entropy",
    "mse", "l1", "smooth-l1", "huber", "poisson". By default the task's own. With `accumulation` it must be one of
    torch's, a mean over samples, or say what it averages over."""
    metrics: Any | str | None = None
    """What is measured besides the loss: names of metrics (in one text with commas between them), or name -> metric of
    torchmetrics. The first one says which epoch is best. By default the task's own."""
    class_weights: ClassWeights | str | None = None
    """Weight of each class in the loss: "balanced" (a class weighs the more the rarer it is), or one number a class (in
    one text with commas between them); of several labels, of the samples that have the label."""

    sampling: ClassWeights | str | None = None
    """How often samples are drawn: "balanced" (each class as often), or one number a training sample, in relation to
    each other; drawn with replacement, from the seed alone. By default each once an epoch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.sampling, str):
            check_word("sampling", self.sampling, ("balanced",))
        for name in ("loss", "metrics"):
            check_function(name, getattr(self, name))
        if isinstance(self.class_weights, str):
            numbers_of(self.class_weights)

    @property
    def own_loss(self) -> Loss | None:
        """The caller's loss where it alone says what is learnt: without a task, and what only known tasks have."""
        names = isinstance(self.metrics, str | tuple | list)
        alone = self.task is None and self.class_weights is None and not names
        return self.loss if alone and callable(self.loss) else None

    def task_for(self, data: Data) -> Chosen:
        """Return the task, fitted to the data, its loss with the weights of the classes and of the samples.

        With a loss of the caller's, no task and targets that are no class numbers it is one of the caller's own.

        Raises:
            OptionError: Task, loss, metrics, weights and targets do not go together.
        """
        if (own := self.own_loss) is not None and not data.classes:
            task = Task(loss=own)
            if self.metrics is not None:
                task = replace(task, metrics=metrics_by_name(self.metrics), best="loss")
            return Chosen(task).on(data)
        chosen = chosen_task(self.task, data, loss=self.loss, metrics=self.metrics)
        if self.class_weights is not None:
            weights = class_weights_of(self.class_weights, data.train_targets, chosen.task)
            chosen = replace(chosen, task=chosen.task.weighted(weights))
        return chosen.on(data)

    def sampling_weights(self, data: Data, part: Part | None = None) -> Tensor | None:
        """Return how often each sample is drawn, (N,); None for each once.

        Args:
            data: Of the run.
            part: One of its halves, each class of which is drawn as often with "balanced"; all training samples if
                None. Numbers are those of training samples, so they say nothing of `Data.valid`.

        Raises:
            OptionError: See `sampling_weights_of`.
        """
        if self.sampling is None:
            return None
        if part is None:
            return sampling_weights_of(self.sampling, data.train_targets)
        if isinstance(self.sampling, str):
            return sampling_weights_of(self.sampling, targets_of(part.samples)[part.indices])
        return None if part.given else sampling_weights_of(self.sampling, data.train_targets)[part.indices]

    def plain_task(self) -> dict[str, Any]:
        """Return those of the options that were given, as plain data for config.yaml; a task by its name."""
        given = {name: _plain(value) for name, value in values_of(self, TaskOptions).items()}
        if isinstance(given["sampling"], list):  # as long as the data
            given["sampling"] = f"{len(given['sampling'])} numbers, hash {_hash(given['sampling'])}"
        return {name: value for name, value in given.items() if value is not None}


def _hash(numbers: list[float]) -> str:
    return hashlib.sha256(repr(numbers).encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    """Return a value as config.yaml holds it; None for a function, which it does not."""
    if isinstance(value, Task):
        return value.name
    if isinstance(value, Mapping | tuple | list):
        return list(value)
    return value.tolist() if hasattr(value, "tolist") else value if isinstance(value, str) else None


def check_function(name: str, given: Any) -> None:
    """Refuse a class in the place of a value, and what is neither a function nor a name.

    Raises:
        OptionError: As said.
    """
    if isinstance(given, type) and issubclass(given, nn.Module):
        raise OptionError(f"{name} must be a value, but got the class {given.__name__}. Give {given.__name__}().")
    if given is None or callable(given):
        return
    if isinstance(given, str) and name != "weights_optimizer":
        if name == "loss":
            loss_of_name(given)
        return
    if name != "metrics" or not isinstance(given, Mapping | tuple | list):
        what = "the list of weights" if name == "weights_optimizer" else "(outputs, targets)"
        raise OptionError(f"{name} must be a function of {what}, but got {given!r}.")
