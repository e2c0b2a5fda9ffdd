"""The metrics that have a name, made from torchmetrics when they are used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from archgrad.errors import OptionError, did_you_mean
from archgrad.json_text import shown
from archgrad.tasks.base_task import Task
from archgrad.tasks.measure import HitRate, MadeLater, Perplexity

__all__ = ["Makers", "made_metrics", "of_classes", "of_labels", "of_values"]

Makers = Mapping[str, Callable[[], Any]]
_THRESHOLDS = 200
"""Of curves: as many sums are kept, and not every score."""


def made_metrics(task: Task, makers: Makers) -> Mapping[str, Any]:
    """Return the metrics of a task by name: those that are given, or those that its names stand for.

    Args:
        task: With names of metrics, or with metrics of a caller's.
        makers: Those that have a name.

    Raises:
        OptionError: There is no metric of a name.
    """
    if isinstance(task.metrics, Mapping):
        return task.metrics
    for name in task.metrics:
        if name not in makers:
            hint = did_you_mean(name, makers)
            raise OptionError(
                f"There is no metric {shown(name)} of the task {task.name!r}.{hint} Known are {', '.join(makers)}; of "
                f"your own, give metrics={{name: a metric of torchmetrics}} in Python."
            )
    return {name: makers[name] for name in task.metrics}


def _torchmetrics(name: str, **options: Any) -> Any:
    from torchmetrics import classification, regression  # here, as it takes seconds

    home = classification if hasattr(classification, name) else regression
    return getattr(home, name)(**options, **({"validate_args": False} if home is classification else {}))


def of_classes(classes: int, *, ignore_index: int | None = None, positions: bool = False) -> Makers:
    """Return the metrics of class numbers; means over classes count each class alike, however rare it is.

    Args:
        classes: How many there are.
        ignore_index: The class number that is left out.
        positions: Whether there is one at each of several positions.
    """

    def macro(name: str, **options: Any) -> Callable[[], Any]:
        return MadeLater(_torchmetrics, name, num_classes=classes, ignore_index=ignore_index, **options)

    makers: dict[str, Callable[[], Any]] = {
        "accuracy": MadeLater(HitRate, ignore_index=ignore_index),
        "balanced_accuracy": macro("MulticlassRecall", average="macro"),
        "f1": macro("MulticlassF1Score", average="macro"),
        "precision": macro("MulticlassPrecision", average="macro"),
        "recall": macro("MulticlassRecall", average="macro"),
        "kappa": macro("MulticlassCohenKappa"),
        "mcc": macro("MulticlassMatthewsCorrCoef"),
    }
    if positions:
        makers["iou"] = macro("MulticlassJaccardIndex", average="macro")
        makers["perplexity"] = MadeLater(Perplexity, ignore_index=ignore_index)
    else:
        makers["auroc"] = macro("MulticlassAUROC", thresholds=_THRESHOLDS)
        makers["top5_accuracy"] = macro("MulticlassAccuracy", average="micro", top_k=min(5, classes))
    return makers


def of_labels(labels: int, *, threshold: float) -> Makers:
    """Return the metrics of several labels at once.

    Args:
        labels: How many there are.
        threshold: The probability from which on a label is taken.
    """

    def made(name: str, **options: Any) -> Callable[[], Any]:
        return MadeLater(_torchmetrics, name, num_labels=labels, **options)

    return {
        "f1": made("MultilabelF1Score", average="macro", threshold=threshold),
        "accuracy": made("MultilabelAccuracy", average="macro", threshold=threshold),
        "exact_match": made("MultilabelExactMatch", threshold=threshold),
        "precision": made("MultilabelPrecision", average="macro", threshold=threshold),
        "recall": made("MultilabelRecall", average="macro", threshold=threshold),
        "auroc": made("MultilabelAUROC", average="macro", thresholds=_THRESHOLDS),
        "average_precision": made("MultilabelAveragePrecision", average="macro", thresholds=_THRESHOLDS),
    }


def of_values(values: int) -> Makers:
    """Return the metrics of values.

    Args:
        values: How many a sample has.
    """
    several = {"num_outputs": values} if values > 1 else {}
    return {
        "mae": MadeLater(_torchmetrics, "MeanAbsoluteError"),
        "rmse": MadeLater(_torchmetrics, "MeanSquaredError", squared=False),
        "mse": MadeLater(_torchmetrics, "MeanSquaredError"),
        "r2": MadeLater(_torchmetrics, "R2Score"),
        "mape": MadeLater(_torchmetrics, "MeanAbsolutePercentageError"),
        "pearson": MadeLater(_torchmetrics, "PearsonCorrCoef", **several),
        "spearman": MadeLater(_torchmetrics, "SpearmanCorrCoef", **several),
    }
