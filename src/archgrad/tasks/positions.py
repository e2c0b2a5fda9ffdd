"""A class at each position: of the pixels of an image, or of the steps of a sequence."""

from __future__ import annotations

from collections.abc import Sequence as Several
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from archgrad.checks import is_whole
from archgrad.errors import OptionError
from archgrad.json_text import shown
from archgrad.losses import Loss, loss_kind
from archgrad.tasks.base_task import Task, class_counts, shape_of
from archgrad.tasks.classification import described_targets, with_class_weights, with_label_smoothing
from archgrad.tasks.metric_names import made_metrics, of_classes

__all__ = ["Segmentation", "Sequence"]

_MOST_COUNTED = 1024
"""Most classes, such as words, whose confusions are counted: there are as many as their square."""


@dataclass(frozen=True, kw_only=True)
class _Positions(Task):
    """A class at each of several positions."""

    loss: Loss = F.cross_entropy
    metrics: Any = ("accuracy",)
    ignore_index: int = -100
    """The class number of positions that do not count, such as padding and borders."""

    shows = "positions"
    position_dims: ClassVar[int]
    """How many dimensions the positions have."""
    outputs_are: ClassVar[str]
    """Shape of the outputs, in words."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_whole(self.ignore_index, least=-(2**31)):
            raise OptionError(f"ignore_index must be a whole number, but got {shown(self.ignore_index)}.")

    def fitted(self, targets: Tensor, names: Several[str]) -> Task:
        """Number the classes; see `Task`."""
        if targets.is_floating_point() or targets.ndim != 1 + self.position_dims:
            raise OptionError(
                f"The targets of {self.name} are class numbers, whole numbers with {self.position_dims} dimensions a "
                f"sample, but they are {described_targets(targets)}."
            )
        counted = targets[targets != self.ignore_index]
        if not counted.numel() or int(counted.min()) < 0:
            low = int(counted.min()) if counted.numel() else self.ignore_index
            raise OptionError(
                f"Class numbers must be at least 0, but the targets have {low}. Positions that do not count are told "
                f"by ignore_index (now {self.ignore_index})."
            )
        classes = int(counted.max()) + 1
        if 0 < len(self.labels or names) < classes:
            raise OptionError(
                f"The targets reach to class {classes - 1}, but {len(self.labels or names)} classes are named. Name "
                f"all, or mark positions that do not count by ignore_index (now {self.ignore_index})."
            )
        labels = self.labels or tuple(names) or tuple(map(str, range(classes)))
        loss = self.loss
        if loss is F.cross_entropy:
            loss = partial(F.cross_entropy, ignore_index=self.ignore_index)
        elif (kind := loss_kind(loss)).of_classes and kind.ignore_index != self.ignore_index:
            raise OptionError(
                f"The loss leaves out class number {kind.ignore_index}, but the task {self.ignore_index}. Give both "
                f"the same ignore_index."
            )
        makers = of_classes(len(labels), ignore_index=self.ignore_index, positions=True)
        return replace(self, labels=labels, loss=loss, metrics=made_metrics(self, makers))

    def check(self, outputs: Any, samples: int) -> None:
        """Check that there is one channel a class; see `Task`."""
        shape, classes = shape_of(outputs), len(self.labels)
        fits = isinstance(outputs, Tensor) and outputs.dim() == 2 + self.position_dims
        if not fits or shape[:2] != (samples, classes):
            last = isinstance(outputs, Tensor) and shape[:1] == (samples,) and shape[-1] == classes
            raise OptionError(
                f"The network must return scores of shape {self.outputs_are} with {samples} samples and {classes} "
                f"classes, but it returned {shape}. "
                f"Build it for {classes} classes"
                + (", or return outputs.movedim(-1, 1) if its classes come last." if fits and last else ".")
            )

    def smoothed(self, label_smoothing: float) -> Loss:
        """See `Task`."""
        return with_label_smoothing(self.loss, label_smoothing, task=self.name)

    def weighted(self, class_weights: Tensor) -> Task:
        """See `Task`."""
        return replace(self, loss=with_class_weights(self.loss, class_weights, task=self.name))

    def read(self, outputs: Any) -> Any:
        """Return the class number of each position, (B, ...)."""
        return outputs.argmax(1)

    def counts(self, outputs: Any, targets: Any) -> Tensor | None:
        """Return nothing of very many classes; see `Task`."""
        return class_counts(outputs, targets, self.ignore_index) if outputs.shape[1] <= _MOST_COUNTED else None

    def described(self) -> dict[str, Any]:
        """See `Task`."""
        return {**super().described(), "ignore_index": self.ignore_index}


@dataclass(frozen=True, kw_only=True)
class Segmentation(_Positions):
    """A class for each pixel of an image.

    Outputs are scores (B, classes, H, W), targets class numbers (B, H, W). Metrics with a name: iou, accuracy,
    balanced_accuracy, f1 (which is the Dice score), precision, recall, kappa and mcc.
    """

    name: str = "segmentation"
    metrics: Any = ("iou", "accuracy")

    position_dims = 2
    outputs_are = "(samples, classes, height, width)"


@dataclass(frozen=True, kw_only=True)
class Sequence(_Positions):
    """A label for each position of a sequence.

    Outputs are scores (B, classes, T), targets class numbers (B, T), padded with `ignore_index`. Metrics with a name:
    accuracy, perplexity (exp of the mean cross-entropy), balanced_accuracy, f1, precision, recall, iou, kappa and mcc.
    """

    name: str = "sequence"

    position_dims = 1
    outputs_are = "(samples, classes, positions)"
