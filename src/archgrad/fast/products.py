"""Products of tall matrices (n pixels x C channels) with small ones, in the way that the backend does best.

On the CPU, with n in the tens of thousands and C below a hundred, BLAS spreads such products badly over threads: sums
over pixels are cut into blocks here, and a product with a small matrix goes through the kernel of a 1x1 convolution.
With fewer pixels the cost of more calls outweighs the gain.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["column_sums", "gram", "times_small", "wide"]

_BLOCKS = 16
_MANY = 16384
"""Pixels from which the detours pay (measured on AVX2)."""


def wide(x: Tensor) -> Tensor:
    """x in single precision at least."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def gram(a: Tensor, b: Tensor) -> Tensor:
    """Return a^T b in single precision at least, (A, B) from (n, A) and (n, B)."""
    a, b = wide(a), wide(b)
    if _cut(a) and _cut(b):
        return torch.bmm(_blocks(a).transpose(1, 2), _blocks(b)).sum(0)
    return a.t() @ b


def column_sums(a: Tensor) -> Tensor:
    """Return the sums over pixels in single precision at least, (A,) from (n, A)."""
    if _cut(a) and wide(a) is a:
        ones = a.new_ones(1, 1, a.shape[0] // _BLOCKS).expand(_BLOCKS, -1, -1)
        return torch.bmm(ones, _blocks(a)).sum((0, 1))
    return a.sum(0, dtype=torch.promote_types(a.dtype, torch.float32))


def times_small(a: Tensor, small: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return a small^T + bias, (n, O) from (n, C), (O, C) and (O,); not for recording a graph."""
    if _are_many(a) and a.dtype == torch.float32 and torch.backends.mkldnn.is_available():
        image = a.view(1, a.shape[0], 1, -1).permute(0, 3, 1, 2)
        product = F.conv2d(image, small[:, :, None, None], bias)
        return product.permute(0, 2, 3, 1).reshape(a.shape[0], -1)
    return a @ small.t() if bias is None else torch.addmm(bias, a, small.t())


def _cut(a: Tensor) -> bool:
    return _are_many(a) and a.shape[0] % _BLOCKS == 0 and a.is_contiguous()


def _are_many(a: Tensor) -> bool:
    return a.device.type == "cpu" and a.shape[0] >= _MANY


def _blocks(a: Tensor) -> Tensor:
    return a.view(_BLOCKS, a.shape[0] // _BLOCKS, -1)
