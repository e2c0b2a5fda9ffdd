"""What many processes must share: the mean of their gradients, in one message.

Without a process group every function is the identity, so that no caller asks how many processes there are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["average_over_ranks", "rank", "world_size"]


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def average_over_ranks(tensors: Sequence[Tensor], samples: int) -> list[Tensor]:
    """Return the mean of each tensor over the ranks, each rank weighted by its number of samples.

    One all-reduce of one flat buffer, whatever the number of tensors; the sample counts travel in it. With losses that
    are means over a rank's samples this gives the gradient of the mean over all samples.

    Args:
        tensors: Of one dtype and device, of the same shapes on every rank.
        samples: What this rank's values are the mean of, at least 0.
    """
    if world_size() == 1:
        return list(tensors)
    count = tensors[0].new_tensor([float(samples)])
    flat = torch.cat([*(t.detach().reshape(-1) * count for t in tensors), count])
    dist.all_reduce(flat)
    flat = flat[:-1] / flat[-1]
    return [part.view_as(t) for part, t in zip(flat.split([t.numel() for t in tensors]), tensors, strict=True)]
