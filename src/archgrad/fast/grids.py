"""What a FactorizedReduce reads: even rows and columns of an image, and odd ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["both_grids", "for_both_grids", "grid_size", "grids"]


def grid_size(size: Sequence[int]) -> tuple[int, int]:
    """Return (ceil(H/2), ceil(W/2)) of (H, W)."""
    return (size[0] + 1) // 2, (size[1] + 1) // 2


def grids(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the pixels of even rows and columns of (B, C, H, W), and those of odd ones, padded at their end by zeros
    to the same size; both are (B, C, ceil(H/2), ceil(W/2)).
    """
    even, odd = x[:, :, ::2, ::2], x[:, :, 1::2, 1::2]
    if even.shape != odd.shape:
        odd = F.pad(odd, (0, x.shape[3] % 2, 0, x.shape[2] % 2))
    return even, odd


def both_grids(x: Tensor) -> Tensor:
    """Return the pixels of even rows and columns and, behind them along the channels, those of odd ones.

    Args:
        x: (B, C, H, W); of an odd H or W, the odd grid is padded by a zero at its end.

    Returns:
        (B, 2 C, ceil(H/2), ceil(W/2)), channels_last.
    """
    return torch.cat(grids(x), dim=1).contiguous(memory_format=torch.channels_last)


def for_both_grids(projection: Tensor) -> Tensor:
    """Return the matrix (O, 2 C) for `both_grids` of which the first half of (O, C) reads the even one only."""
    return torch.block_diag(*projection.chunk(2))
