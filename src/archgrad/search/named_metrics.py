"""A user's metrics by name, whatever form they have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from archgrad.errors import OptionError
from archgrad.search.meter import Metrics

__all__ = ["NamedMetrics"]


class NamedMetrics:
    """Metrics by name, of a function that returns a mapping, or one number.

    One number is called what the function is called, or "metric" where it has no name.

    Args:
        metrics: Function of (outputs, targets).

    Raises:
        OptionError: On a call: it returned something else, or a metric called "loss".
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        name = getattr(getattr(metrics, "func", metrics), "__name__", "metric")  # `func` of a functools.partial
        self._name = name if name.isidentifier() else "metric"  # a lambda has none

    def __call__(self, outputs: Any, targets: Any) -> Mapping[str, float | Tensor]:
        """Return name -> mean over the batch."""
        values: Any = self._metrics(outputs, targets)
        if _is_number(values):
            values = {self._name: values}
        if not isinstance(values, Mapping):
            got = (
                f"a tensor of shape {tuple(values.shape)}" if isinstance(values, Tensor) else f"{type(values).__name__}"
            )
            raise OptionError(
                f"metrics must return a dict of name -> value, or one number, but returned {got}. Return the mean over "
                f"the batch, for example {{'accuracy': value}}."
            )
        if "loss" in values:
            raise OptionError(
                "metrics must not return 'loss', which the search measures itself. Leave it out or rename it."
            )
        for name, value in values.items():
            if not isinstance(name, str) or not _is_number(value):
                raise OptionError(
                    f"metrics must return numbers by name, but returned {name!r}: {type(value).__name__}. "
                    f"Return one number a batch."
                )
        return values


def _is_number(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1
    return hasattr(value, "__float__") and not isinstance(value, str)
