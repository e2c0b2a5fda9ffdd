"""Metrics over all batches of an epoch or of a test set: added up, kept in checkpoints, put together over processes."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from archgrad.batches import plain_targets
from archgrad.distributed import sum_over_ranks, world_size
from archgrad.errors import OptionError
from archgrad.nested import map_tensors
from archgrad.tasks.base_task import Task

__all__ = ["BatchMean", "HitRate", "MadeLater", "Measure", "Perplexity"]

_LARGEST_EXPONENT = 700.0
"""Of e, that a float of 64 bits holds."""


class MadeLater(partial):
    """What makes a metric when it is first needed, so that its package is not imported before."""


class _Sums:
    """A metric that is a quotient of two sums."""

    def __init__(self) -> None:
        self.metric_state: dict[str, Any] = {"total": torch.zeros(()).double(), "count": torch.zeros(()).double()}

    def _add(self, total: Any, count: Any) -> None:
        for name, value in (("total", total), ("count", count)):
            value = torch.as_tensor(value).detach().double()
            self.metric_state[name] = self.metric_state[name].to(value.device) + value

    def compute(self) -> float:
        total, count = torch.stack([self.metric_state["total"], self.metric_state["count"]]).tolist()
        return total / count if count else math.nan


class HitRate(_Sums):
    """The share of class numbers that have the largest score; of probabilities the likeliest class counts.

    Args:
        ignore_index: The class number that is left out.
    """

    def __init__(self, ignore_index: int | None = None) -> None:
        super().__init__()
        self._ignore_index = ignore_index

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add scores (B, classes, ...) with class numbers (B, ...), or probabilities of the shape of the scores."""
        targets = targets.argmax(1) if targets.is_floating_point() else targets
        right = outputs.argmax(1) == targets
        if self._ignore_index is None:
            self._add(right.sum(), right.numel())
        else:
            self._add(right.sum(), (targets != self._ignore_index).sum())


class Perplexity(_Sums):
    """exp of the mean cross-entropy over all positions that count: 1 if each next token were certain.

    Args:
        ignore_index: The class number that is left out.
    """

    higher_is_better = False

    def __init__(self, ignore_index: int) -> None:
        super().__init__()
        self._ignore_index = ignore_index

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add scores (B, classes, ...) with class numbers (B, ...)."""
        total = F.cross_entropy(outputs, targets, ignore_index=self._ignore_index, reduction="sum")
        self._add(total, (targets != self._ignore_index).sum())

    def compute(self) -> float:
        """Return it, of all that was added."""
        mean = super().compute()
        return math.exp(mean) if mean < _LARGEST_EXPONENT else math.inf


class BatchMean(_Sums):
    """The mean over samples of a function of (outputs, targets) that returns the mean over a batch."""

    def __init__(self, name: str, function: Any) -> None:
        super().__init__()
        self._name, self._function = name, function

    def update(self, outputs: Any, targets: Any) -> None:
        """Add a batch."""
        value = self._function(outputs, targets)
        if (isinstance(value, Tensor) and value.numel() != 1) or not hasattr(value, "__float__"):
            raise OptionError(
                f"The metric {self._name!r} must return one number a batch, but it returned "
                f"{tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__}. Return the mean."
            )
        value = value.detach().reshape(()) if isinstance(value, Tensor) else torch.tensor(float(value))
        self._add(value.double() * len(targets), len(targets))


def _made(name: str, given: Any) -> Any:
    """Return a metric at its beginning."""
    if isinstance(given, type | MadeLater):
        given = given()
    if hasattr(given, "update") and hasattr(given, "compute"):
        made = copy.deepcopy(given)
        if not hasattr(made, "metric_state") or not (isinstance(made, _Sums) or hasattr(made, "_reductions")):
            raise OptionError(
                f"The metric {name!r} must be one of torchmetrics, so that checkpoints can hold it, but got "
                f"{type(given).__name__}. Extend torchmetrics.Metric, or give a function of (outputs, targets)."
            )
        if not isinstance(made, _Sums):
            # Process 0 alone shows values as it goes, and would wait for the others; `over_ranks` asks them all.
            made.sync_on_compute = made._to_sync = False
        return made
    if not callable(given):
        raise OptionError(
            f"The metric {name!r} must be one of torchmetrics or a function of (outputs, targets), but got {given!r}."
        )
    return BatchMean(name, given)


class Measure:
    """The metrics of a task over several batches.

    Args:
        task: Tells the metrics, and what they take of outputs and targets.
        only: Names of those that are measured; all by default.
    """

    def __init__(self, task: Task, only: Collection[str] | None = None) -> None:
        self._task = task
        self._metrics = {
            name: _made(name, given) for name, given in task.metrics.items() if only is None or name in only
        }
        self._empty = True
        for name, metric in self._metrics.items() if world_size() > 1 else ():
            if not all(_is_sum(metric, state) for state in metric.metric_state):
                raise OptionError(
                    f"The metric {name!r} keeps more than sums, which are not put together over processes. Give "
                    f"another, one with thresholds=100 if it has that option, or run on one process."
                )

    def add(self, outputs: Any, targets: Any) -> None:
        """Add a batch, without waiting for a device."""
        if not self._metrics:
            return
        self._empty = False
        outputs = map_tensors(outputs, _for_metrics)
        outputs, targets = self._task.measured(outputs, plain_targets(targets))
        with torch.no_grad():
            for metric in self._metrics.values():
                if not isinstance(metric, _Sums) and isinstance(outputs, Tensor):
                    metric.to(outputs.device)
                metric.update(outputs, targets)

    def values(self) -> dict[str, float | None]:
        """Return the value of each metric over the batches so far; None where it has none."""
        return {name: None if self._empty else _value(metric) for name, metric in self._metrics.items()}

    def over_ranks(self) -> Measure:
        """Return the measure of the batches of all processes, the same on each."""
        if world_size() == 1 or not self._metrics:
            return self
        whole = copy.copy(self)
        whole._metrics = {name: copy.deepcopy(metric) for name, metric in self._metrics.items()}
        sums = [
            (metric, state, value) for metric in whole._metrics.values() for state, value in metric.metric_state.items()
        ]
        added = iter(sum_over_ranks([number for _, _, value in sums for number in value.double().flatten().tolist()]))
        for metric, state, value in sums:
            numbers = [next(added) for _ in range(value.numel())]
            _set(metric, state, torch.tensor(numbers, dtype=torch.float64).to(value).reshape(value.shape))
        whole._empty = False
        for metric in whole._metrics.values():
            _mark_updated(metric)
        return whole

    def state(self) -> dict[str, Any]:
        """Return the sums so far as plain data and tensors; nothing before the first batch."""
        if self._empty:
            return {}
        return {
            name: {state: _copied(value) for state, value in metric.metric_state.items()}
            for name, metric in self._metrics.items()
        }

    def load(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Take over what `state` gave, on one process or several, added up.

        Raises:
            KeyError, TypeError, ValueError: It is something else.
        """
        states = [state for state in states if state]
        self._empty = not states
        for name, metric in self._metrics.items() if states else ():
            for state, present in metric.metric_state.items():
                values = [_checked(each[name][state], present, state) for each in states]
                _set(metric, state, _joined(values, additive=_is_sum(metric, state), name=name))
            _mark_updated(metric)


def _for_metrics(tensor: Tensor) -> Tensor:
    half = tensor.dtype in (torch.bfloat16, torch.float16)
    return tensor.detach().float() if half else tensor.detach()


def _value(metric: Any) -> float | None:
    try:
        value = metric.compute()
    except ValueError:  # such as R2 of a single sample
        return None
    value = float(value.double().mean() if isinstance(value, Tensor) else value)
    return None if math.isnan(value) else value


def _is_sum(metric: Any, state: str) -> bool:
    if isinstance(metric, _Sums):
        return True
    return getattr(metric._reductions[state], "__name__", "") == "dim_zero_sum"


def _copied(value: Any) -> Any:
    return [part.detach().clone() for part in value] if isinstance(value, list) else value.detach().clone()


def _checked(value: Any, like: Any, name: str) -> Any:
    parts = value if isinstance(value, list) else [value]
    same = isinstance(value, list) == isinstance(like, list) and all(isinstance(part, Tensor) for part in parts)
    if not same or (isinstance(like, Tensor) and like.shape != value.shape):
        raise ValueError(f"the sums of a metric are no '{name}' of it")
    return value


def _joined(values: Sequence[Any], *, additive: bool, name: str) -> Any:
    if len(values) == 1:
        return _copied(values[0])
    if additive:
        return torch.stack(list(values)).sum(0)
    if isinstance(values[0], list):
        return [part for value in values for part in value]
    raise ValueError(f"the metric '{name}' cannot go on with another number of processes")


def _set(metric: Any, state: str, value: Any) -> None:
    if isinstance(metric, _Sums):
        metric.metric_state[state] = value
    else:
        setattr(metric, state, value)


def _mark_updated(metric: Any) -> None:
    """Let a metric of torchmetrics know that it has seen something, or it warns when it is asked."""
    if not isinstance(metric, _Sums):
        metric._update_count, metric._computed = max(metric._update_count, 1), None
