"""One of several classes a sample: cross-entropy over logits (B, classes)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from archgrad.errors import OptionError
from archgrad.losses import Loss, SampleWeightedLoss
from archgrad.tasks.base_task import Task, class_counts, shape_of
from archgrad.tasks.metric_names import made_metrics, of_classes

__all__ = ["Classification", "with_class_weights", "with_label_smoothing"]


@dataclass(frozen=True, kw_only=True)
class Classification(Task):
    """One of several classes a sample.

    Outputs are logits (B, classes); targets class numbers (B,), or probabilities of the classes (B, classes).
    Metrics with a name: accuracy, balanced_accuracy, f1, precision, recall, kappa, mcc, auroc and, of more than five
    classes, top5_accuracy; but for the first and the last they count each class alike, however rare it is.
    """

    name: str = "classification"
    loss: Loss = F.cross_entropy
    metrics: Any = ("accuracy",)

    shows = "classes"

    def fitted(self, targets: Tensor, names: Sequence[str]) -> Task:
        """Take over the classes' names; see `Task`."""
        if targets.is_floating_point() and targets.ndim == 2:
            names = names or tuple(map(str, range(targets.shape[1])))
        labels = self.labels or tuple(names)
        if not labels or (targets.ndim != 1 and not targets.is_floating_point()):
            raise OptionError(
                f"Classification takes class numbers of shape (N,), whole numbers from 0, or probabilities of the "
                f"classes (N, classes), but the targets are {described_targets(targets)}. "
                + ("Give targets[:, 0]." if targets.ndim == 2 and targets.shape[1] == 1 else "Give another task.")
            )
        return replace(self, labels=labels, metrics=made_metrics(self, of_classes(len(labels))))

    def check(self, outputs: Any, samples: int) -> None:
        """Check that there is one column a class; see `Task`."""
        shape, classes = shape_of(outputs), len(self.labels)
        if shape != (samples, classes):
            several = "Where it returns several tensors, give a Task with a loss and metrics that take them."
            remedy = f"Build it for {classes} classes." if isinstance(outputs, Tensor) else several
            raise OptionError(
                f"The network must return logits of shape ({samples}, {classes}), one column a class, or in "
                f"training mode two of them (logits, auxiliary logits), but it returned {shape}. {remedy}"
            )

    def measured(self, outputs: Any, targets: Any) -> tuple[Any, Any]:
        """Return logits and class numbers; see `Task`."""
        return outputs, targets.argmax(1) if targets.is_floating_point() else targets

    def smoothed(self, label_smoothing: float) -> Loss:
        """See `Task`."""
        return with_label_smoothing(self.loss, label_smoothing, task=self.name)

    def weighted(self, class_weights: Tensor) -> Task:
        """See `Task`."""
        return replace(self, loss=with_class_weights(self.loss, class_weights, task=self.name))

    def read(self, outputs: Any) -> Any:
        """Return the probabilities (B, classes)."""
        return outputs.double().softmax(1)

    def counts(self, outputs: Any, targets: Any) -> Tensor | None:
        """See `Task`."""
        return class_counts(*self.measured(outputs, targets), None)


def described_targets(targets: Tensor) -> str:
    """Return type and shape of targets in words."""
    kind = "numbers with a fraction" if targets.is_floating_point() else "whole numbers"
    return f"{kind} of shape {('N', *targets.shape[1:])}".replace("'", "")


def with_label_smoothing(loss: Loss, label_smoothing: float, *, task: str) -> Loss:
    """Return cross-entropy with label smoothing.

    Raises:
        OptionError: There is some, and the loss is another one.
    """
    if not label_smoothing and loss is not F.cross_entropy:
        return loss
    return _with(loss, {"label_smoothing": label_smoothing}, asked=f"label_smoothing={label_smoothing}", task=task)


def with_class_weights(loss: Loss, class_weights: Tensor, *, task: str) -> Loss:
    """Return cross-entropy with a weight a class.

    Raises:
        OptionError: The loss is another one, or has weights already.
    """
    return _with(loss, {"weight": class_weights}, asked="class_weights", task=task)


def _with(loss: Any, settings: dict[str, Any], *, asked: str, task: str) -> Loss:
    if isinstance(loss, SampleWeightedLoss):
        return SampleWeightedLoss(_with(loss.loss, settings, asked=asked, task=task))
    keywords: dict[str, Any] = {}
    if isinstance(loss, partial) and not loss.args:
        keywords, loss = loss.keywords, loss.func
    if type(loss) is nn.CrossEntropyLoss:
        names = ("weight", "ignore_index", "reduction", "label_smoothing")
        keywords, loss = {name: getattr(loss, name) for name in names}, F.cross_entropy
    if loss is not F.cross_entropy or any(keywords.get(name) is not None for name in settings if name == "weight"):
        raise OptionError(
            f"{asked} changes cross-entropy, but the loss of the task {task!r} is another one, or has it already. Set "
            f"it in the loss that you give, and leave it out here."
        )
    return partial(F.cross_entropy, **{**keywords, **settings})
