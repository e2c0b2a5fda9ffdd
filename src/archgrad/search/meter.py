"""Means over the samples of an epoch, gathered without waiting for the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from archgrad.distributed import average_over_ranks
from archgrad.runs import check_column, numbers_in

__all__ = ["Meter", "Metrics", "accuracy"]

Metrics: TypeAlias = Callable[[Any, Any], Mapping[str, "float | Tensor"]]
"""Function of (outputs, targets) that returns name -> mean over the batch."""


def accuracy(outputs: Any, targets: Any) -> dict[str, Tensor | float]:
    """Return {"accuracy": share of samples whose largest logit is the target}; nothing where targets are not classes.

    Args:
        outputs: (B, classes) logits.
        targets: (B,) class numbers.
    """
    if not isinstance(outputs, Tensor) or targets.is_floating_point() or outputs.dim() != 2:
        return {}
    return {"accuracy": (outputs.argmax(1) == targets).float().mean()}


class Meter:
    """Sums of value times samples by name; values may be tensors of any device, which are read only at the end."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor | float] = {}
        self._samples: dict[str, float] = {}

    def add(self, values: Mapping[str, float | Tensor], samples: int) -> None:
        """Add one batch's means.

        Raises:
            OptionError: A name cannot stand at the head of a column of metrics.csv.
        """
        for name, value in values.items():
            if name not in self._sums:
                check_column(name)
            value = value.detach().double() if isinstance(value, Tensor) else float(value)
            self._sums[name] = self._sums.get(name, 0.0) + value * samples
            self._samples[name] = self._samples.get(name, 0) + samples

    def means(self) -> dict[str, float]:
        """Return the mean of each name over this process's samples so far."""
        return {name: float(total) / self._samples[name] for name, total in self._sums.items()}

    def means_over_ranks(self, device: torch.device) -> dict[str, float]:
        """Return the mean of each name over the samples of all processes; one message."""
        if not self._sums:
            return {}
        sums = torch.tensor([float(total) for total in self._sums.values()], dtype=torch.float64, device=device)
        samples = sums.new_tensor([self._samples[name] for name in self._sums])
        # The mean over processes of sums and of samples: what they are divided by cancels.
        sums, samples = average_over_ranks([sums, samples], 1)
        return dict(zip(self._sums, (sums / samples).tolist(), strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Return the sums as plain numbers."""
        return {"sums": {name: float(total) for name, total in self._sums.items()}, "samples": dict(self._samples)}

    @classmethod
    def shared(cls, states: Sequence[Mapping[str, Any]], processes: int) -> Meter:
        """Return the meter of each of `processes` processes that take over from those of other processes."""
        meter = cls()
        for sums, samples in map(_sums_in, states):
            for name, total in sums.items():
                meter._sums[name] = meter._sums.get(name, 0.0) + total / processes
                meter._samples[name] = meter._samples.get(name, 0) + samples[name] / processes
        return meter

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over sums from `state_dict`.

        Raises:
            KeyError, TypeError, ValueError: It is something else.
        """
        self._sums, self._samples = _sums_in(state)


def _sums_in(state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    sums, samples = (numbers_in(state[name], f"the {name} of the epoch") for name in ("sums", "samples"))
    if sums.keys() != samples.keys() or not all(count > 0 for count in samples.values()):
        raise ValueError("the sums of the epoch do not go with its samples")
    return sums, samples
