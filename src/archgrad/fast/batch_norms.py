"""What a BatchNorm module would do with given statistics: which it normalises with, and how its running ones move."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from archgrad.distributed.sync_batchnorm import is_synchronised
from archgrad.fast.biases import shifts_of

__all__ = ["affine", "edges_share", "fixed_statistics", "track", "uses_batch"]


def uses_batch(norm: nn.BatchNorm2d) -> bool:
    """Return whether it normalises with the statistics of the batch."""
    return norm.training or norm.running_mean is None or norm.running_var is None


def edges_share(norm: nn.BatchNorm2d) -> bool:
    """Return whether every edge gets the same from its own BatchNorm like this one, given the same images."""
    return uses_batch(norm) and not is_synchronised(norm) and not norm.affine


def fixed_statistics(norms: Sequence[nn.BatchNorm2d]) -> tuple[Tensor, Tensor]:
    """Return the running means and variances, each (T, C)."""
    means, variances = [], []
    for norm in norms:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        means.append(norm.running_mean)
        variances.append(norm.running_var)
    return torch.stack(means), torch.stack(variances)


def affine(norm: nn.BatchNorm2d) -> tuple[Tensor | None, Tensor | None]:
    """Return gamma and beta, or None each."""
    return (norm.weight, norm.bias) if norm.affine else (None, None)


@torch.no_grad()
def track(norms: Sequence[nn.BatchNorm2d], means: Tensor, variances: Tensor, count: int | Tensor) -> None:
    """Move the running statistics of every module that tracks them, as its own forward pass would.

    Args:
        norms: T modules.
        means: (T, C), of the batch.
        variances: (T, C), biased.
        count: Number of values behind each, at least 2; a tensor (1,) where it lies on the device, and is not checked.

    Raises:
        ValueError: A training batch with a single value for each channel, as BatchNorm itself says.
    """
    if isinstance(count, int) and count < 2 and any(norm.training for norm in norms):
        raise ValueError("Expected more than 1 value per channel when training, got one image of one pixel.")
    moving = [t for t, norm in enumerate(norms) if norm.training and norm.track_running_stats]
    means_of, variances_of, counts_of = (
        {t: _buffer(norms[t], name) for t in moving} for name in ("running_mean", "running_var", "num_batches_tracked")
    )
    tracked = [t for t in moving if means_of[t] is not None and variances_of[t] is not None]
    counters = [n for n in counts_of.values() if n is not None]
    if counters:
        torch._foreach_add_(counters, 1)
    shifts = shifts_of(norms) if tracked else None
    means = means if shifts is None else means + shifts
    unbiased = variances * (count / (count - 1)) if tracked else variances
    for momentum in dict.fromkeys(norms[t].momentum for t in tracked):
        group = [t for t in tracked if norms[t].momentum == momentum]
        for kept, batch in ((means_of, means), (variances_of, unbiased)):
            # As BatchNorm itself does, past the version counter: another norm may have kept a shared buffer.
            running = [cast(Tensor, kept[t]).data for t in group]
            rows = batch.unbind()
            values = [rows[t].to(buffer) for t, buffer in zip(group, running, strict=True)]
            if momentum is None:  # a cumulative average
                for t, buffer, value in zip(group, running, values, strict=True):
                    seen = counts_of[t]
                    assert seen is not None
                    buffer.lerp_(value, 1.0 / float(seen))
            else:
                torch._foreach_lerp_(running, values, momentum)


def _buffer(norm: nn.BatchNorm2d, name: str) -> Tensor | None:
    """The attribute, read from the table of buffers: `nn.Module.__getattr__` is slow, and there are many norms."""
    buffer = norm._buffers.get(name)
    return getattr(norm, name) if buffer is None else buffer
