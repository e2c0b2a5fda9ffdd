"""Sums over the steps of an epoch, read from the device seldom, and the watch for values that are not finite."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from archgrad.distributed import sum_over_ranks
from archgrad.runs import numbers_in

__all__ = ["NonfiniteStep", "Totals"]


class NonfiniteStep(Exception):  # noqa: N818 (what happened; the loop makes an error of it, with the remedy)
    """A step whose loss or gradient norm is not finite.

    Args:
        step: 0-based within the epoch.
        loss: The batch's loss.
        gradient_norm: Over all weights.
    """

    def __init__(self, step: int, loss: float, gradient_norm: float) -> None:
        super().__init__(step, loss, gradient_norm)
        self.step = step
        self.loss = loss
        self.gradient_norm = gradient_norm


@dataclass
class Totals:
    """What has been summed over the steps of an epoch so far."""

    loss: float = 0.0
    """Mean loss of each batch times its samples."""
    samples: int = 0
    gradient_norm: float = 0.0
    """Before clipping, one value a step."""
    steps: int = 0
    skipped: int = 0
    """Steps that were left out because they were not finite; nothing of them is in the other sums."""

    def __post_init__(self) -> None:
        self._unread: list[tuple[int, int, Tensor]] = []

    def add(self, step: int, samples: int, loss: Tensor, gradient_norm: Tensor) -> None:
        """Take note of a step without waiting for the device.

        Args:
            step: 0-based within the epoch.
            samples: Of the batch.
            loss: (), the batch's mean loss.
            gradient_norm: (), before clipping.
        """
        values = torch.stack([value.detach().to(torch.float64) for value in (loss, gradient_norm)])
        self._unread.append((step, samples, values))

    @property
    def unread(self) -> int:
        """How many steps have been noted but not read."""
        return len(self._unread)

    def read(self) -> None:
        """Wait for the device, and add the noted steps to the sums.

        Raises:
            NonfiniteStep: A step was not finite; it and those after it are not added.
        """
        if not self._unread:
            return
        unread, self._unread = self._unread, []
        rows = torch.stack([values for _, _, values in unread]).tolist()
        for (step, samples, _), (loss, gradient_norm) in zip(unread, rows, strict=True):
            if not (math.isfinite(loss) and math.isfinite(gradient_norm)):
                raise NonfiniteStep(step, loss, gradient_norm)
            self.loss += loss * samples
            self.samples += samples
            self.gradient_norm += gradient_norm
            self.steps += 1

    def means(self) -> dict[str, float | None]:
        """Return the figures of metrics.csv over the steps that were read; None where there are none."""
        if not self.steps:
            return {"train_loss": None, "weights_gradient_norm": None}
        return {
            "train_loss": self.loss / self.samples if self.samples else None,
            "weights_gradient_norm": self.gradient_norm / self.steps,
        }

    def over_ranks(self) -> Totals:
        """Return the totals of all processes; steps and gradient norms are the same on each. One message."""
        loss, samples = sum_over_ranks([self.loss, float(self.samples)])
        return replace(self, loss=loss, samples=int(samples))

    @classmethod
    def of(cls, state: Any) -> Totals:
        """Return the totals that `state` told of.

        Raises:
            TypeError, ValueError: It is something else.
        """
        return cls(**numbers_in(state, "the totals of the epoch", finite=True))

    @classmethod
    def shared(cls, states: Sequence[Mapping[str, Any]], *, mine: int) -> Totals:
        """Return the totals of process `mine` of those that take over from processes of another number."""
        totals = [cls.of(state) for state in states]
        whole = replace(
            totals[0],
            loss=sum(each.loss for each in totals),
            samples=sum(each.samples for each in totals),
        )
        return whole if mine == 0 else replace(whole, loss=0.0, samples=0)

    def state(self) -> dict[str, Any]:
        """Return the sums, as arguments of a new `Totals`; everything noted must have been read."""
        assert not self._unread
        return asdict(self)
