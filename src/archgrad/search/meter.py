"""Means over the samples of an epoch, gathered without waiting for the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor

from archgrad.distributed import average_over_ranks
from archgrad.runs import check_column, numbers_in

__all__ = ["Meter", "Metrics", "accuracy"]

Metrics: TypeAlias = Callable[[Any, Any], Mapping[str, float | Tensor] | float | Tensor]
"""Function of (outputs, targets) that returns name -> mean over the batch; or one number, then called what the function
is called, or "metric"."""


def accuracy(outputs: Any, targets: Any) -> dict[str, Tensor | float]:
    """Return {"accuracy": share of samples whose largest logit is the target}; nothing where targets are not classes.

    Args:
        outputs: (B, classes) logits.
        targets: (B,) class numbers.
    """
    if not isinstance(outputs, Tensor) or targets.is_floating_point() or outputs.dim() != 2:
        return {}
    return {"accuracy": (outputs.argmax(1) == targets).float().mean()}


_MOST_UNREAD = 10_000
"""Values after which a meter reads in any case, so that an epoch of many steps holds no more of them."""


class Meter:
    """Sums of value times samples by name; tensors are read from their device, all at once, when a sum is asked for."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._samples: dict[str, float] = {}
        self._unread: list[tuple[str, float | Tensor, int]] = []

    def add(self, values: Mapping[str, float | Tensor], samples: int) -> None:
        """Add one batch's means, without waiting for a device.

        Raises:
            OptionError: A name cannot stand at the head of a column of metrics.csv.
        """
        for name, value in values.items():
            if name not in self._samples:
                check_column(name)
            # A copy, since its owner may write to the tensor before it is read.
            own = value.detach().to(torch.float64, copy=True) if isinstance(value, Tensor) else float(value)
            self._unread.append((name, own, samples))
        if len(self._unread) >= _MOST_UNREAD:
            self._read()

    def _read(self) -> None:
        unread, self._unread = self._unread, []
        read: dict[int, float] = {}
        places: dict[torch.device, list[int]] = {}
        for place, (_, value, _) in enumerate(unread):
            if isinstance(value, Tensor):
                places.setdefault(value.device, []).append(place)
        for there in places.values():
            together = torch.stack([cast(Tensor, unread[place][1]).reshape(()) for place in there])
            read.update(zip(there, together.tolist(), strict=True))
        for place, (name, value, samples) in enumerate(unread):  # in the order of adding, on which rounding depends
            number = read[place] if isinstance(value, Tensor) else value
            self._sums[name] = self._sums.get(name, 0.0) + number * samples
            self._samples[name] = self._samples.get(name, 0) + samples

    def means(self) -> dict[str, float]:
        """Return the mean of each name over this process's samples so far."""
        self._read()
        return {name: total / self._samples[name] for name, total in self._sums.items()}

    def means_over_ranks(self, device: torch.device) -> dict[str, float]:
        """Return the mean of each name over the samples of all processes; one message."""
        self._read()
        if not self._sums:
            return {}
        sums = torch.tensor(list(self._sums.values()), dtype=torch.float64, device=device)
        samples = sums.new_tensor([self._samples[name] for name in self._sums])
        # The mean over processes of sums and of samples: what they are divided by cancels.
        sums, samples = average_over_ranks([sums, samples], 1)
        return dict(zip(self._sums, (sums / samples).tolist(), strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Return the sums as plain numbers."""
        self._read()
        return {"sums": dict(self._sums), "samples": dict(self._samples)}

    @classmethod
    def shared(cls, states: Sequence[Mapping[str, Any]], processes: int) -> Meter:
        """Return the meter of each of `processes` processes that take over from those of other processes."""
        meter = cls()
        for sums, samples in map(_sums_in, states):
            for name, total in sums.items():
                meter._sums[name] = meter._sums.get(name, 0.0) + total / processes
                meter._samples[name] = meter._samples.get(name, 0) + samples[name] / processes
        return meter

    @classmethod
    def loaded(cls, states: Sequence[Mapping[str, Any]], rank: int, processes: int) -> Meter:
        """Return the meter of process `rank` of `processes`, of the states of as many, or of another number."""
        if len(states) != processes:
            return cls.shared(states, processes)
        meter = cls()
        meter.load_state_dict(states[rank])
        return meter

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over sums from `state_dict`.

        Raises:
            KeyError, TypeError, ValueError: It is something else.
        """
        self._unread = []
        self._sums, self._samples = _sums_in(state)


def _sums_in(state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    sums, samples = (numbers_in(state[name], f"the {name} of the epoch") for name in ("sums", "samples"))
    if sums.keys() != samples.keys() or not all(count > 0 for count in samples.values()):
        raise ValueError("the sums of the epoch do not go with its samples")
    return sums, samples
