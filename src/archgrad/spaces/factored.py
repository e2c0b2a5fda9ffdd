"""Convolutions that stand for another: of another kernel, in two factors, with the nearest first weights.

Shapes: a convolution with G groups has the weight (G * out, in, *kernel), out and in channels of each group, and K
numbers a kernel. What is built has the original's device, dtype, bias and mode, and draws no random numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from archgrad import nn as open_nn
from archgrad.values import ValueChoice

__all__ = ["Conv", "keeps_size", "low_rank", "separable", "with_kernel", "with_open_kernel"]

Conv: TypeAlias = "nn.Conv1d | nn.Conv2d | nn.Conv3d"


def keeps_size(conv: Conv) -> bool:
    """Return whether the output has the input's channels and size, whatever that is."""
    if conv.in_channels != conv.out_channels or set(conv.stride) != {1}:
        return False
    if conv.padding == "same":
        return True
    sizes = zip(_padding(conv), conv.dilation, conv.kernel_size, strict=True)
    return all(2 * padding == dilation * (kernel - 1) for padding, dilation, kernel in sizes)


def with_kernel(conv: Conv, size: int) -> Conv | None:
    """Return the convolution with another kernel: the centre of its own, or its own with zeros around.

    Args:
        conv: Stays as it is.
        size: Of the kernel in each dimension in which that of `conv` is larger than 1; there, the padding goes with it.

    Returns:
        None if no padding gives the outputs of `conv`, or it has this kernel already.
    """
    kernel = tuple(size if n > 1 else n for n in conv.kernel_size)
    if kernel == conv.kernel_size or any((n - m) % 2 for n, m in zip(kernel, conv.kernel_size, strict=True)):
        return None
    padding: Any = conv.padding
    if padding != "same":
        grown = zip(_padding(conv), conv.dilation, kernel, conv.kernel_size, strict=True)
        padding = tuple(p + dilation * ((n - m) // 2) for p, dilation, n, m in grown)
        if min(padding) < 0:
            return None
    made = _built(conv, kernel_size=kernel, padding=padding)
    with torch.no_grad():
        new, old = made.weight.zero_(), conv.weight
        for dim, (n, m) in enumerate(zip(kernel, conv.kernel_size, strict=True), start=2):
            new = new.narrow(dim, max(0, n - m) // 2, min(n, m))
            old = old.narrow(dim, max(0, m - n) // 2, min(n, m))
        new.copy_(old)
        _take_bias(made, conv)
    return made


def with_open_kernel(conv: Conv, sizes: Sequence[int], label: str) -> nn.Module | None:
    """Return the convolution with an open kernel: each size is the centre of the largest, which `with_kernel` gives.

    Args:
        conv: Stays as it is. Its kernel is equally large in all dimensions in which it is larger than 1.
        sizes: As for `with_kernel`; those that do not fit are left out.
        label: Of the choice, whose first value is the size of the kernel of `conv`.

    Returns:
        None if no other size fits.
    """
    own = {n for n in conv.kernel_size if n > 1}
    made = {size: with_kernel(conv, size) for size in sizes} if len(own) == 1 else {}
    fitting = {size: layer for size, layer in made.items() if layer is not None}
    if not fitting:
        return None
    (now,) = own
    size = ValueChoice([now, *fitting], label)
    padding: Any = "same"
    if conv.padding != "same":
        each = zip(_padding(conv), conv.dilation, conv.kernel_size, strict=True)
        padding = tuple(p + (size - now) * dilation // 2 if n > 1 else p for p, dilation, n in each)
    kind = {nn.Conv1d: open_nn.Conv1d, nn.Conv2d: open_nn.Conv2d, nn.Conv3d: open_nn.Conv3d}[type(conv)]
    with torch.random.fork_rng(devices=[]):
        opened = kind(
            conv.in_channels,
            conv.out_channels,
            tuple(size if n > 1 else n for n in conv.kernel_size),
            conv.stride,
            padding,
            conv.dilation,
            conv.groups,
            conv.bias is not None,
            conv.padding_mode,
        )
    opened.layer = max((conv, *fitting.values()), key=_kernel_numbers)
    return opened.to(conv.weight.device, conv.weight.dtype).train(conv.training)


def separable(conv: Conv) -> nn.Sequential | None:
    """Return a depthwise and a pointwise convolution, which together come nearest to the weight of `conv`.

    For each input channel i, the matrix of its weights, (out, K), is replaced by the nearest p_i d_i^T: d_i is the
    first right singular vector, the depthwise kernel, and p_i the pointwise weights.

    Returns:
        None if `conv` is pointwise or depthwise itself.
    """
    inside = conv.in_channels // conv.groups
    if inside == 1 or _kernel_numbers(conv) == 1:
        return None
    depthwise = _built(conv, out_channels=conv.in_channels, groups=conv.in_channels, bias=False)
    pointwise = _pointwise(conv, conv.in_channels)
    with torch.no_grad():
        # (G, in, out, K): one matrix an input channel
        matrices = conv.weight.double().reshape(conv.groups, -1, inside, _kernel_numbers(conv)).transpose(1, 2)
        kernels = _leading(matrices.mT @ matrices, 1)  # (G, in, K, 1)
        depthwise.weight.copy_(kernels.reshape(depthwise.weight.shape))
        pointwise.weight.copy_((matrices @ kernels).squeeze(3).transpose(1, 2).reshape(pointwise.weight.shape))
        _take_bias(pointwise, conv)
    return nn.Sequential(depthwise, pointwise)


def low_rank(conv: Conv, ratio: float) -> nn.Sequential | None:
    """Return a convolution to few channels and a pointwise one from them, which come nearest to the weight of `conv`.

    The matrix of each group, (out, in K), is replaced by the nearest of the rank that the inner channels allow
    (truncated singular value decomposition).

    Args:
        conv: Stays as it is.
        ratio: Inner channels as a share of the output's, rounded, at least 1 a group; above 0 and below 1.

    Returns:
        None if the two have no fewer weights than `conv`.
    """
    out = conv.out_channels // conv.groups
    fan_in = conv.in_channels // conv.groups * _kernel_numbers(conv)
    rank = max(1, round(ratio * out))
    if rank * (fan_in + out) >= fan_in * out:
        return None
    narrow = _built(conv, out_channels=rank * conv.groups, bias=False)
    wide = _pointwise(conv, rank * conv.groups)
    with torch.no_grad():
        matrices = conv.weight.double().reshape(conv.groups, out, fan_in)
        vectors = _leading(matrices @ matrices.mT, rank)  # (G, out, rank)
        narrow.weight.copy_((vectors.mT @ matrices).reshape(narrow.weight.shape))
        wide.weight.copy_(vectors.reshape(wide.weight.shape))
        _take_bias(wide, conv)
    return nn.Sequential(narrow, wide)


def _padding(conv: Conv) -> tuple[int, ...]:
    return (0,) * len(conv.kernel_size) if isinstance(conv.padding, str) else conv.padding


def _kernel_numbers(conv: Conv) -> int:
    return conv.weight[0, 0].numel()


def _leading(squares: Tensor, count: int) -> Tensor:
    """Return the eigenvectors of the largest eigenvalues, (..., n, count), of symmetric (..., n, n)."""
    return torch.linalg.eigh(squares).eigenvectors.flip(-1)[..., :count]


def _built(conv: Conv, **changed: Any) -> Conv:
    """Return a convolution like `conv` but for what is changed, its weights not set yet."""
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    arguments = {**{name: getattr(conv, name) for name in names}, "bias": conv.bias is not None, **changed}
    made = type(conv)(**arguments, device="meta", dtype=conv.weight.dtype).to_empty(device=conv.weight.device)
    made.weight.requires_grad_(conv.weight.requires_grad)
    return made.train(conv.training)


def _pointwise(conv: Conv, channels: int) -> Conv:
    """Return the pointwise convolution from so many channels to the output of `conv`, in its groups."""
    plain = {"kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1, "padding_mode": "zeros"}
    return _built(conv, in_channels=channels, **plain)


def _take_bias(made: Conv, conv: Conv) -> None:
    if conv.bias is not None and made.bias is not None:
        made.bias.copy_(conv.bias)
        made.bias.requires_grad_(conv.bias.requires_grad)
