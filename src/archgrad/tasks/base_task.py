"""What a network is trained for: its loss, what is measured, what "best" means, and what its outputs say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from archgrad.checks import check_word
from archgrad.errors import OptionError
from archgrad.json_text import shown
from archgrad.losses import Loss, SampleWeightedLoss
from archgrad.runs import check_column

__all__ = ["HIGHER_IS_BETTER", "LOSSES", "LOWER_IS_BETTER", "BestIs", "Shows", "Task", "class_counts", "shape_of"]

BestIs = Literal["highest", "lowest"]
Shows = Literal["classes", "labels", "values", "positions"]

LOWER_IS_BETTER = frozenset({"loss", "mae", "mse", "rmse", "mape"})
HIGHER_IS_BETTER = frozenset(
    {
        *("accuracy", "balanced_accuracy", "f1", "precision", "recall", "kappa", "mcc", "auroc", "top5_accuracy"),
        *("iou", "exact_match", "average_precision", "r2", "pearson", "spearman"),
    }
)
"""Metrics by name, of tasks that archgrad knows and of others that call theirs alike."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a network is trained for, and how that is measured.

    The tasks that archgrad knows extend it. One of your own is a value of it: its loss, metrics of torchmetrics, and
    the metric that says which epoch was best.

    Raises:
        OptionError: `best` is no metric, or another value is outside its range.
    """

    name: str = "own"
    """What run folders and messages call it."""
    loss: Loss
    """Function of (outputs, targets); see `archgrad.losses.Loss`."""
    metrics: Any = field(default_factory=dict)
    """Name -> a metric of torchmetrics, or a function of (outputs, targets) that returns the mean over the batch. The
    names stand in metrics.csv after "train_", "valid_" and "test_". Of a task that archgrad knows names are enough."""
    best: str | None = None
    """The metric that "best" goes by, or "loss"; by default the first of the metrics, or the loss if there is none
    or nothing tells which of its values is best."""
    best_is: BestIs | None = None
    """Whether the "highest" or the "lowest" value is best; by default what the metric itself says."""
    labels: tuple[str, ...] = ()
    """Name of each class, label or value that the network gives; by default what the data says."""
    auxiliary: bool = True
    """Whether a network that returns a pair returns (outputs, outputs of an auxiliary head); False where loss and
    metrics take the pair itself."""

    shows: ClassVar[Shows] = "values"
    """What outputs are to reports and predictions: one of several "classes", several "labels" at once, "values", or a
    class at each of several "positions"."""

    def __post_init__(self) -> None:
        if isinstance(self.metrics, str) or not isinstance(self.metrics, Mapping | tuple | list):
            raise OptionError(f"metrics must be a dict of name -> metric, but got {shown(self.metrics)}.")
        if not isinstance(self.metrics, Mapping) and type(self) is Task:
            raise OptionError(
                f"Names of metrics go with the tasks that archgrad knows, but this is one of your own, with "
                f"{shown(self.metrics)}. Give a dict of name -> metric."
            )
        for name in self.metrics:
            check_column(name)
        if "loss" in self.metrics:
            raise OptionError("metrics must not hold 'loss', which is measured in any case. Rename it.")
        if not callable(self.loss):
            raise OptionError(f"loss must be a function of (outputs, targets), but got {shown(self.loss)}.")
        best = self._best_by_default() if self.best is None else self.best
        if best != "loss" and best not in self.metrics:
            known = ", ".join(map(repr, ("loss", *self.metrics)))
            raise OptionError(f"best must be one of {known}, but got {shown(best)}. Add it to metrics.")
        set_field = object.__setattr__  # of a frozen dataclass
        set_field(self, "labels", tuple(map(str, self.labels)))
        set_field(self, "best", best)
        if self.best_is is not None:
            check_word("best_is", self.best_is, ("highest", "lowest"))
            return
        if (best_is := self._direction(best)) is None:
            raise OptionError(
                f"Nothing tells whether the highest or the lowest {best!r} is best. Give best_is='highest' or 'lowest'."
            )
        set_field(self, "best_is", best_is)

    def _best_by_default(self) -> str:
        first = next(iter(self.metrics), "loss")
        return "loss" if self.best_is is None and self._direction(first) is None else first

    def _direction(self, metric: str) -> BestIs | None:
        """Return which value of a metric is best; None where nothing tells."""
        own = self.metrics[metric] if isinstance(self.metrics, Mapping) and metric != "loss" else None
        higher = getattr(own, "higher_is_better", None)
        if isinstance(higher, bool):
            return "highest" if higher else "lowest"
        if metric in LOWER_IS_BETTER | HIGHER_IS_BETTER or not isinstance(self.metrics, Mapping):
            return "lowest" if metric in LOWER_IS_BETTER else "highest"
        return None

    @property
    def directions(self) -> dict[str, BestIs]:
        """Whether the highest or the lowest value is best, of the loss and of each metric of which anything tells."""
        found = {name: self.best_is if name == self.best else self._direction(name) for name in ("loss", *self.metrics)}
        return {name: best_is for name, best_is in found.items() if best_is is not None}

    def fitted(self, targets: Tensor, names: Sequence[str]) -> Task:
        """Return the task with what the data tells: labels, and metrics made for as many.

        Args:
            targets: (N, ...), of all training samples.
            names: Of the classes, as far as the data names them.

        Raises:
            OptionError: The targets are not what the task takes.
        """
        return self

    def better(self, value: float | None, than: float | None) -> bool:
        """Return whether a value of the metric `best` is better than another; any is better than none."""
        if value is None or value != value:
            return False
        return than is None or (value > than if self.best_is == "highest" else value < than)

    def check(self, outputs: Any, samples: int) -> None:
        """Check the outputs of a batch.

        Args:
            outputs: Of the network, without those of an auxiliary head.
            samples: How many the batch has.

        Raises:
            OptionError: They are not what the task takes.
        """

    def heads(self, output: Any, samples: int) -> tuple[Any, Any]:
        """Return (outputs, outputs of an auxiliary head or None) of what a network returned for a batch.

        Raises:
            OptionError: It is not what the task takes.
        """
        pair = self.auxiliary and isinstance(output, tuple | list)
        parts = list(output) if pair else [output]
        if len(parts) not in (1, 2):
            self.check(output, samples)
            raise OptionError(
                f"The network must return its outputs, or in training mode a pair (outputs, outputs of an auxiliary "
                f"head), but it returned {len(parts)} things. Return one of these, or give a Task with auxiliary=False "
                f"whose loss takes them all."
            )
        for part in parts:
            self.check(part, samples)
        return parts[0], parts[1] if len(parts) == 2 else None

    def measured(self, outputs: Any, targets: Any) -> tuple[Any, Any]:
        """Return outputs and targets as metrics take them."""
        return outputs, targets

    def smoothed(self, label_smoothing: float) -> Loss:
        """Return the loss of training, with label smoothing.

        Raises:
            OptionError: There is some, and the loss has no classes to spread it over.
        """
        if label_smoothing:
            raise OptionError(
                f"label_smoothing={label_smoothing} goes with cross-entropy over classes, but the task is "
                f"{self.name!r}. Leave it out."
            )
        return self.loss

    def weighted(self, class_weights: Tensor) -> Task:
        """Return the task with a weight for each class in its loss.

        Args:
            class_weights: (classes,), at least 0.

        Raises:
            OptionError: The task has no classes to weight.
        """
        raise OptionError(f"class_weights go with classes, but the task {self.name!r} has none. Leave them out.")

    def sample_weighted(self) -> Task:
        """Return the task with a loss that takes the weights of samples, which stand beside the targets."""
        return replace(self, loss=SampleWeightedLoss(self.loss))

    def read(self, outputs: Any) -> Any:
        """Return what outputs say: probabilities (B, labels), values, or class numbers at positions."""
        return outputs

    def counts(self, outputs: Any, targets: Any) -> Tensor | None:
        """Return (classes, classes) int64, rows the true class, columns the predicted one; None without classes."""
        return None

    def described(self) -> dict[str, Any]:
        """Return what a run folder and an exported model tell of the task, as plain data."""
        return {"name": self.name, "shows": self.shows, "best": self.best, "best_is": self.best_is}


def class_counts(outputs: Tensor, targets: Tensor, ignore_index: int | None) -> Tensor:
    """Return (classes, classes) int64 of scores (B, classes, ...) and class numbers (B, ...)."""
    classes = outputs.shape[1]
    predicted, targets = outputs.argmax(1).flatten(), targets.flatten()
    if ignore_index is not None:
        kept = targets != ignore_index
        predicted, targets = predicted[kept], targets[kept]
    return torch.bincount(targets * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def shape_of(value: Any) -> Any:
    """Return the shape of a tensor, or the type of anything else, for messages."""
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__


LOSSES: dict[str, Loss] = {
    "cross-entropy": F.cross_entropy,
    "binary-cross-entropy": F.binary_cross_entropy_with_logits,
    "mse": F.mse_loss,
    "l1": F.l1_loss,
    "smooth-l1": F.smooth_l1_loss,
    "huber": F.huber_loss,
    "poisson": F.poisson_nll_loss,
}
"""Losses by the names that the command line takes."""
