"""Several labels a sample, each there or not: binary cross-entropy over logits (B, labels)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from archgrad.checks import check_real
from archgrad.errors import OptionError
from archgrad.losses import Loss
from archgrad.tasks.base_task import Task, shape_of
from archgrad.tasks.classification import described_targets
from archgrad.tasks.metric_names import made_metrics, of_labels

__all__ = ["Multilabel", "binary_cross_entropy"]


def binary_cross_entropy(
    outputs: Tensor, targets: Tensor, *, pos_weight: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """Return the mean binary cross-entropy of logits and targets 0 or 1, (B, labels) each, of any type."""
    targets = targets.to(outputs.dtype)
    return F.binary_cross_entropy_with_logits(outputs, targets, pos_weight=pos_weight, reduction=reduction)


@dataclass(frozen=True, kw_only=True)
class Multilabel(Task):
    """Several labels a sample, each there or not.

    Outputs are logits (B, labels), targets 0 or 1 of the same shape. Metrics with a name: f1, accuracy, precision,
    recall, auroc and average_precision, as means over labels, and exact_match.
    """

    name: str = "multilabel"
    loss: Loss = binary_cross_entropy
    metrics: Any = ("f1", "accuracy")
    threshold: float = 0.5
    """The probability from which on a label is taken, between 0 and 1."""

    shows = "labels"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_real("threshold", self.threshold, above=0, below=1)

    def fitted(self, targets: Tensor, names: Sequence[str]) -> Task:
        """Number the labels; see `Task`."""
        if targets.ndim != 2 or bool(((targets != 0) & (targets != 1)).any()):
            raise OptionError(
                f"Several labels a sample are targets 0 or 1 of shape (N, labels), but they are "
                f"{described_targets(targets)}{'' if targets.ndim != 2 else ', and some are neither 0 nor 1'}."
            )
        count = targets.shape[1]
        labels = self.labels or (tuple(names) if len(names) == count else tuple(map(str, range(count))))
        if len(labels) != count:
            raise OptionError(f"The targets have {count} labels, but {len(labels)} names were given: {labels}.")
        return replace(
            self, labels=labels, metrics=made_metrics(self, of_labels(len(labels), threshold=self.threshold))
        )

    def check(self, outputs: Any, samples: int) -> None:
        """Check that there is one column a label; see `Task`."""
        expected = (samples, len(self.labels))
        if (shape := shape_of(outputs)) != expected:
            raise OptionError(
                f"The network must return logits of shape {expected}, one column a label, but it returned {shape}. "
                f"Build it for {len(self.labels)} outputs."
            )

    def measured(self, outputs: Any, targets: Any) -> tuple[Any, Any]:
        """Return probabilities and whole targets; see `Task`."""
        return outputs.sigmoid(), targets.long()

    def weighted(self, class_weights: Tensor) -> Task:
        """Weight the samples that have a label, one weight a label; see `Task`."""
        if self.loss is not binary_cross_entropy:
            raise OptionError("class_weights change the task's own loss. Set pos_weight in the loss that you give.")
        return replace(self, loss=_Weighted(class_weights))

    def read(self, outputs: Any) -> Any:
        """Return the probability of each label, (B, labels)."""
        return outputs.double().sigmoid()

    def described(self) -> dict[str, Any]:
        """See `Task`."""
        return {**super().described(), "threshold": self.threshold}


class _Weighted:
    """Binary cross-entropy with a weight for the presence of each label."""

    def __init__(self, weights: Tensor) -> None:
        self.pos_weight = weights

    def __call__(self, outputs: Tensor, targets: Tensor, *, reduction: str = "mean") -> Tensor:
        weights = self.pos_weight.to(outputs.device, outputs.dtype)
        return binary_cross_entropy(outputs, targets, pos_weight=weights, reduction=reduction)
