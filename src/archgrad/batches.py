"""Batches of any nesting: cast, laid out and cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from archgrad.errors import DataError, OptionError
from archgrad.nested import branches, is_structure, joined, map_tensors, places, rebuilt, tensors_in

__all__ = [
    "WeightedTargets",
    "check_smallest_part",
    "count",
    "cut",
    "plain_targets",
    "prepare",
    "to_channels_last",
    "uncut",
]


class WeightedTargets(NamedTuple):
    """Targets of a batch whose samples have weights in the loss."""

    targets: Tensor
    """(B, ...)."""
    sample_weights: Tensor
    """(B,), at least 0."""


def plain_targets(targets: Any) -> Any:
    """Return the targets of a batch without the weights of its samples."""
    return targets.targets if isinstance(targets, WeightedTargets) else targets


def check_smallest_part(network: nn.Module, samples: int, *, of: str) -> None:
    """Check that BatchNorm never sees a single sample.

    Args:
        network: Looked at for BatchNorm.
        samples: Fewest samples that go through it at once.
        of: What a batch is of, for the message.

    Raises:
        DataError: It would.
    """
    if samples < 2 and any(isinstance(module, _BatchNorm) for module in network.modules()):
        raise DataError(
            f"The network has BatchNorm, which cannot train on a batch of one sample, but the smallest part of a batch "
            f"{of} has {samples}. Choose a batch_size of at least 2 that leaves no single sample over, and "
            f"accumulation of at most half the last batch."
        )


def prepare(inputs: Any, *, dtype: torch.dtype, channels_last: bool) -> Any:
    """Return inputs with floating-point tensors of `dtype`, and images (4-D) in channels_last if asked for."""

    def one(tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            tensor = tensor.to(dtype)
        return to_channels_last(tensor) if channels_last else tensor

    return map_tensors(inputs, one)


def to_channels_last(x: Tensor) -> Tensor:
    """Return an image, (B, C, H, W), in channels_last, which strides say for one channel, too; anything else as is."""
    if x.dim() != 4:
        return x
    if x.shape[1] == 1:
        return x.contiguous().view(x.shape[0], x.shape[2], x.shape[3], 1).permute(0, 3, 1, 2)
    return x.contiguous(memory_format=torch.channels_last)


def count(inputs: Any) -> int:
    """Return the number of samples in a batch: the length of its first tensor."""
    return len(next(tensors_in(inputs)))


def _rows(value: Any, samples: int, rows: slice) -> Any:
    """Return some samples of a batch; of as many strings, one belongs to each sample, and other constants stay."""
    if isinstance(value, Tensor):
        return value[rows]
    if not is_structure(value):
        return value
    parts = [part for _, part in branches(value)]
    if (
        isinstance(value, tuple | list)
        and len(parts) == samples
        and all(isinstance(part, str | bytes) for part in parts)
    ):
        return type(value)(parts[rows])
    return rebuilt(value, [_rows(part, samples, rows) for part in parts])


def cut(inputs: Any, targets: Any, parts: int) -> Iterator[tuple[Any, Any]]:
    """Cut a batch into at most `parts` contiguous parts whose sizes differ by at most one; no part is empty."""
    if parts == 1:
        yield inputs, targets
        return
    samples = count(targets)
    for _, part in places(inputs):
        rows = len(part) if isinstance(part, Tensor) and part.dim() else -1
        if rows != samples and callable(getattr(part, "to", None)):  # a tensor, or a batch of graphs
            what = f"a tensor of shape {tuple(part.shape)}" if isinstance(part, Tensor) else f"a {type(part).__name__}"
            raise OptionError(
                f"accumulation={parts} cuts a batch by its rows, but among the inputs is {what}, which has no row for "
                f"each of the {samples} targets. Give accumulation=1 and a smaller batch_size."
            )
    parts = min(parts, samples)
    bounds = [part * samples // parts for part in range(parts + 1)]
    for first, end in pairwise(bounds):
        yield _rows(inputs, samples, slice(first, end)), _rows(targets, samples, slice(first, end))


def uncut(outputs: Sequence[Any]) -> Any:
    """Return the outputs of the parts of a batch as those of the whole."""
    return outputs[0] if len(outputs) == 1 else joined(outputs, torch.cat)
