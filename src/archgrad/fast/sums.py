"""How the parts of a cell come together: weighted sums of tensors in one buffer, and tensors joined along the channels.

y = sum_k w_k x_k keeps only the x_k; the products w_k x_k are never stored. Backward: dx_k = w_k g, dw_k = <g, x_k>.

Joined tensors get gradients that are dense in channels_last. Slices of the whole, as the library's own backward gives,
send BatchNorm's backward over the pixels with strides, five to ten times slower.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["added", "joined", "weighted_total"]


def weighted_total(values: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Return the sum of weights[k] * values[k].

    Args:
        values: T tensors of equal shape.
        weights: (T,).
    """
    return _WeightedTotal.apply(weights, *values)


def added(parts: Sequence[Tensor]) -> Tensor:
    """Return the sum of tensors, the first of the full shape, the others of it or 0-dimensional; it keeps none of them.

    Types may differ, and the sum has the widest.
    """
    return parts[0] if len(parts) == 1 else _Added.apply(*parts)


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Return the parts side by side along the channels.

    Args:
        parts: (B, C_k, H, W) each; other numbers of dimensions are joined as the library does it.
    """
    return _Joined.apply(*parts) if parts[0].dim() == 4 else torch.cat(list(parts), dim=1)


def _scaled_add(total: Tensor, value: Tensor, weight: Tensor) -> Tensor:
    """total += weight * value; on the CPU the weight is read, elsewhere that would wait for the device."""
    if total.device.type == "cpu":
        return total.add_(value, alpha=weight.item())
    return total.addcmul_(value, weight.to(value.dtype))


class _WeightedTotal(torch.autograd.Function):
    """The sum; its backward is made of differentiable operations, so that it can be differentiated again."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, *values: Tensor) -> Tensor:
        ctx.save_for_backward(weights, *(values if ctx.needs_input_grad[0] else ()))
        parts = weights.unbind()
        total = values[0] * parts[0].to(values[0].dtype)
        for value, weight in zip(values[1:], parts[1:], strict=True):
            _scaled_add(total, value, weight)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        weights, *values = ctx.saved_tensors
        (g,) = grads
        d_weights = torch.stack([_inner(g, value) for value in values]).to(weights.dtype) if values else None
        needed = ctx.needs_input_grad[1:]
        d_values = [
            g * weight.to(g.dtype) if need else None for weight, need in zip(weights.unbind(), needed, strict=True)
        ]
        return d_weights, *d_values


def _inner(a: Tensor, b: Tensor) -> Tensor:
    if a.device.type == "cpu" and a.dtype == b.dtype and a.dtype in (torch.float32, torch.float64):
        if a.dim() == 4:
            a, b = a.permute(0, 2, 3, 1), b.permute(0, 2, 3, 1)
        return torch.dot(a.reshape(-1), b.reshape(-1))
    return (a * b).sum(dtype=torch.float32 if a.dtype in (torch.float16, torch.bfloat16) else None)


class _Added(torch.autograd.Function):
    """The sum in one buffer; each part gets the sum's gradient in its own type."""

    @staticmethod
    def forward(ctx: Any, *parts: Tensor) -> Tensor:
        ctx.like = [(part.dtype, part.dim()) for part in parts]
        total = parts[0] + parts[1]
        widest = functools.reduce(torch.promote_types, (part.dtype for part in parts))
        total = total.to(widest)
        for part in parts[2:]:
            total.add_(part)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (g,) = grads
        of_type = {dtype: g.to(dtype) for dtype in {dtype for dtype, _ in ctx.like}}
        return tuple(g.sum().to(dtype) if dim == 0 else of_type[dtype] for dtype, dim in ctx.like)


class _Joined(torch.autograd.Function):
    """The parts side by side; its backward is made of differentiable operations."""

    @staticmethod
    def forward(ctx: Any, *parts: Tensor) -> Tensor:
        ctx.channels = [part.shape[1] for part in parts]
        return torch.cat(parts, dim=1)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (g,) = grads
        return tuple(part.contiguous(memory_format=torch.channels_last) for part in g.split(ctx.channels, dim=1))
