"""Which task data and a caller ask for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from archgrad.data import Data, TensorSamples
from archgrad.errors import OptionError, did_you_mean
from archgrad.json_text import shown
from archgrad.losses import Loss
from archgrad.tasks.base_task import LOSSES, Task
from archgrad.tasks.classification import Classification, described_targets
from archgrad.tasks.multilabel import Multilabel
from archgrad.tasks.positions import Segmentation, Sequence
from archgrad.tasks.regression import Regression

__all__ = ["TASKS", "Chosen", "chosen_task", "loss_of_name", "metrics_by_name"]

TASKS: Mapping[str, type[Task]] = {
    "classification": Classification,
    "multilabel": Multilabel,
    "regression": Regression,
    "segmentation": Segmentation,
    "sequence": Sequence,
}
"""The tasks that have a name."""
_BORDER = 255
"""What masks of pixels that do not count are by custom."""
_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Chosen:
    """A task, fitted to its data, and why it was chosen."""

    task: Task
    reason: str = ""
    """In words; empty where the caller named it."""

    def on(self, data: Data) -> Chosen:
        """Return the same, with a loss that takes the weights of the data's samples if they have some."""
        return replace(self, task=self.task.sample_weighted()) if data.has_sample_weights else self

    @property
    def line(self) -> str:
        """Return what a run says of it; nothing of classes that are measured by accuracy, and of a caller's loss."""
        task = self.task
        if type(task) is Task or (type(task) is Classification and list(task.metrics) == ["accuracy"]):
            return ""
        metrics = ", ".join(task.metrics) or "the loss alone"
        return f"Task: {task.name}{f', as {self.reason}' if self.reason else ''}; measured by {metrics}."


def chosen_task(given: Task | str | None, data: Data, *, loss: Any = None, metrics: Any = None) -> Chosen:
    """Return the task of a run, fitted to its data.

    Args:
        given: A task, its name, or None to infer it from the targets.
        data: Tells the targets, and names of classes.
        loss: Instead of the task's own: a function, or one of the names in `LOSSES`.
        metrics: Instead of the task's own: names, one name or several with commas, or name -> metric.

    Raises:
        OptionError: There is no such task, the targets do not go with it, or do not tell which it is.
    """
    reason = ""
    if given is None:
        task, reason = inferred(data.learnt_targets, data)
    else:
        task = _named(given)
    changes: dict[str, Any] = {}
    if loss is not None:
        changes["loss"] = loss_of_name(loss) if isinstance(loss, str) else loss
    if metrics is not None:
        best = "loss" if callable(metrics) else None  # as nothing tells which value of a function is best
        changes |= {"metrics": metrics_by_name(metrics), "best": best, "best_is": None}
    if changes:
        task = replace(task, **changes)
    return Chosen(task.fitted(data.learnt_targets, data.classes), reason)


def metrics_by_name(given: Any) -> Any:
    """Return names of metrics one by one, or name -> metric, of whatever form a caller gave."""
    if isinstance(given, str):
        return tuple(name.strip().replace("-", "_") for name in given.split(","))
    return {getattr(given, "__name__", "metric"): given} if callable(given) else given


def _named(given: Any) -> Task:
    if isinstance(given, Task):
        return given
    if isinstance(given, type) and issubclass(given, Task):
        raise OptionError(f"task must be a value, but got the class {given.__name__}. Give {given.__name__}().")
    kind = TASKS.get(given) if isinstance(given, str) else None
    if kind is None:
        hint = did_you_mean(str(given), TASKS)
        raise OptionError(
            f"task must be one of {', '.join(TASKS)}, or an archgrad.tasks.Task of your own, but got "
            f"{shown(given)}.{hint}"
        )
    return kind()  # type: ignore[call-arg]


def loss_of_name(given: str) -> Loss:
    """Return the loss of a name, as in `LOSSES`.

    Raises:
        OptionError: There is none.
    """
    loss = LOSSES.get(given.replace("_", "-"))
    if loss is None:
        hint = did_you_mean(given, LOSSES)
        raise OptionError(
            f"loss must be one of {', '.join(LOSSES)}, or in Python a function of (outputs, targets), but got "
            f"{shown(given)}.{hint}"
        )
    return loss


def inferred(targets: Tensor, data: Data) -> tuple[Task, str]:
    """Return the task that targets tell, and why.

    Args:
        targets: (N, ...), of all training samples.
        data: Tells whether inputs are images.

    Raises:
        OptionError: They may be of several tasks.
    """
    if targets.is_floating_point():
        return _of_fractions(targets)
    if targets.ndim == 1:
        return Classification(), "the targets are one class number a sample"
    if _predicts_next(data):
        return Sequence(metrics=("perplexity", "accuracy")), "the targets are the inputs one step on"
    if targets.ndim == 3:
        return _segmentation(targets), "the targets are a class number for each pixel"
    if targets.ndim == 2 and targets.shape[1] > 1 and int(targets.max()) > 1:
        return Sequence(), "the targets are several class numbers a sample"
    squeeze = "[:, 0]" if 1 in targets.shape[1:2] else ""
    raise OptionError(
        f"The targets of {data.name!r} are {described_targets(targets)}, which "
        + (
            f"may be one class number in a dimension too many. Give targets{squeeze}; "
            if squeeze
            else "may be several labels a sample, or a label for each position. For one-hot targets give "
            "targets.float(). "
        )
        + f"{'or say' if squeeze else 'Say'} which task it is: {', '.join(TASKS)} (task=..., --task)."
    )


def _predicts_next(data: Data) -> bool:
    """Whether the targets (N, T) are the inputs one step on, as in language modelling; padding is below 0."""
    samples = data.train
    if not isinstance(samples, TensorSamples) or not data.takes_tokens:
        return False
    inputs, targets = samples.inputs, samples.targets
    if not isinstance(inputs, Tensor) or inputs.shape != targets.shape or inputs.shape[1] < 2:
        return False
    before, after = targets[:, :-1], inputs[:, 1:]
    return bool(((before == after) | (before < 0)).all())


def _of_fractions(targets: Tensor) -> tuple[Task, str]:
    if targets.ndim == 2 and targets.shape[1] > 1 and bool((targets >= 0).all()):
        if bool(((targets.double().sum(1) - 1).abs() <= _SUM_TOLERANCE).all()):
            return Classification(), "the targets of a sample sum to 1, as probabilities of classes do"
        if bool(((targets == 0) | (targets == 1)).all()):
            return Multilabel(), "the targets are several numbers 0 or 1 a sample"
    if targets.ndim == 1 and bool((targets == targets.round()).all()):
        return Regression(), "the targets are floats, if whole ones; for class numbers give targets.long()"
    return Regression(), "the targets are numbers with a fraction"


def _segmentation(targets: Tensor) -> Segmentation:
    """Leave out the number that marks borders by custom, where it is far from all others."""
    classes = torch.unique(targets)
    with_border = len(classes) > 1 and int(classes[-1]) == _BORDER and int(classes[-2]) < _BORDER - 1
    return Segmentation(ignore_index=_BORDER) if with_border else Segmentation()
