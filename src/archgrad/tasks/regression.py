"""Values a sample: a mean squared error over outputs of the targets' shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from archgrad.errors import OptionError
from archgrad.losses import Loss, in_parts, loss_kind, unreduced
from archgrad.tasks.base_task import Task, shape_of
from archgrad.tasks.classification import described_targets
from archgrad.tasks.metric_names import made_metrics, of_values

__all__ = ["Regression"]


@dataclass(frozen=True)
class _OfTargetsShape:
    """A loss of outputs and targets of one shape; outputs (B, 1) of targets (B,) lose their last dimension.

    Broadcast against each other, the two would be compared in all pairs, without an error.
    """

    loss: Loss

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.loss(squeezed(outputs, targets.ndim), targets.to(outputs.dtype))

    @property
    def reduction(self) -> Any:
        """What becomes of the losses of samples."""
        return getattr(self.loss, "reduction", "mean")

    def unreduced(self) -> _OfTargetsShape:
        """See `archgrad.losses.unreduced`."""
        return _OfTargetsShape(unreduced(self.loss))


class _OfKnownParts(_OfTargetsShape):
    """The same of a loss of torch's, whose numerator and denominator are known."""

    def numerator(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """See `archgrad.losses.Loss`."""
        return in_parts(self.loss)(squeezed(outputs, targets.ndim), targets.to(outputs.dtype))

    def denominator(self, targets: Tensor) -> Tensor | float | None:
        """See `archgrad.losses.Loss`."""
        return in_parts(self.loss).denominator(targets)


def squeezed(outputs: Any, dims: int) -> Any:
    """Return outputs without a last dimension of 1 that the targets do not have."""
    return outputs.squeeze(-1) if outputs.dim() == dims + 1 and outputs.shape[-1] == 1 else outputs


@dataclass(frozen=True, kw_only=True)
class Regression(Task):
    """One or more values a sample.

    Outputs and targets have one shape, (B,), (B, values) or any other; outputs (B, 1) go with targets (B,). Metrics
    with a name: mae, rmse, mse, r2, mape, pearson and spearman.
    """

    name: str = "regression"
    loss: Loss = F.mse_loss
    metrics: Any = ("r2", "mae", "rmse")
    target_shape: tuple[int, ...] | None = None
    """Of one sample; by default what the data has."""

    def fitted(self, targets: Tensor, names: Sequence[str]) -> Task:
        """Take over the shape of the targets; see `Task`."""
        if not targets.is_floating_point():
            raise OptionError(
                f"Values to be predicted are numbers with a fraction, but the targets are "
                f"{described_targets(targets)}. Give targets.float()."
            )
        shape = tuple(targets.shape[1:])
        count = shape[0] if shape else 1
        labels = self.labels or (
            tuple(names) if len(names) == count else ("value",) if count == 1 else tuple(map(str, range(count)))
        )
        if len(labels) != count:
            raise OptionError(f"The targets have {count} values, but {len(labels)} names were given: {labels}.")
        return replace(
            self,
            labels=labels,
            target_shape=shape,
            loss=(_OfKnownParts if loss_kind(self.loss).of_elements else _OfTargetsShape)(self.loss),
            metrics=made_metrics(self, of_values(math.prod(shape))),
        )

    def check(self, outputs: Any, samples: int) -> None:
        """Check that outputs have the targets' shape; see `Task`."""
        expected, shape = (samples, *(self.target_shape or ())), shape_of(outputs)
        if not isinstance(outputs, Tensor) or tuple(squeezed(outputs, len(expected)).shape) != expected:
            also = f" or {(samples, 1)}" if len(expected) == 1 else ""
            raise OptionError(
                f"The network must return values of the targets' shape {expected}{also}, but it returned {shape}. "
                f"Build it for {len(self.labels)} output{'s' if len(self.labels) > 1 else ''}."
            )

    def measured(self, outputs: Any, targets: Any) -> tuple[Any, Any]:
        """Return values one a row, or (rows, values); see `Task`."""
        outputs = squeezed(outputs, targets.dim()).reshape(len(targets), -1)
        targets = targets.reshape(len(targets), -1).to(outputs.dtype)
        return (outputs[:, 0], targets[:, 0]) if targets.shape[1] == 1 else (outputs, targets)

    def read(self, outputs: Any) -> Any:
        """Return the values, (B, ...)."""
        return squeezed(outputs, 1 + len(self.target_shape or ()))
