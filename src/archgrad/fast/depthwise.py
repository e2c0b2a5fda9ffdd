"""Depthwise convolution whose backward is made of fast forward-like pieces.

Without padding written out, one channel of a depthwise convolution with stride s and dilation d is

    y[j] = sum_t w[t] x[s j + d t - p]

which is bilinear in (x, w). Its two gradients are bilinear too, and each of the three is a gradient of the other two,
so that three autograd functions that name each other are differentiable any number of times:

    spread(g, w)[i]  = sum_t w[t] g[(i + p - d t) / s]     (gradient by x; with s = 1 it convolves with the flipped w)
    tally(x, g)[t]   = sum_j g[j] x[s j + d t - p]         (gradient by w)

The backends have fast kernels for `tally` only where the kernel is at most three columns wide and not dilated. The rest
is brought to that form: a wide kernel is tallied three columns at a time, and an image with dilation 2 is cut into its
even and odd rows and columns, within which the dilation is 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archgrad.exactness import calls_are_watched
from archgrad.fast.deferred import settled

__all__ = ["FastDepthwiseConv2d", "Geometry", "depthwise", "fan_out"]

_WIDEST = 3  # columns of a kernel whose weight gradient the backends compute fast


@dataclass(frozen=True)
class Geometry:
    """Stride, padding and dilation of a convolution, each (vertical, horizontal)."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)

    @classmethod
    def of(cls, convolution: nn.Conv2d) -> Geometry | None:
        """Return the geometry of a depthwise convolution, whatever its bias; None if it is anything else."""
        channels = convolution.groups
        weight = convolution._parameters.get("weight")
        plain = (
            weight is not None
            and weight.shape[:2] == (channels, 1)
            and weight.is_floating_point()
            and convolution.padding_mode == "zeros"
            and not isinstance(convolution.padding, str)
        )
        if not plain:
            return None
        return cls(_pair(convolution.stride), _pair(convolution.padding), _pair(convolution.dilation))

    def output_size(self, size: Sequence[int], kernel: Sequence[int]) -> tuple[int, int]:
        """Return (H', W') for an input of (H, W) and a kernel of (kh, kw)."""
        height, width = (
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(size, kernel, self.stride, self.padding, self.dilation, strict=True)
        )
        return height, width


def depthwise(x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """Convolve every channel with its own kernel.

    Args:
        x: (B, C, H, W), fastest in channels_last.
        weight: (C, 1, kh, kw).
        geometry: Stride, padding and dilation.

    Returns:
        (B, C, H', W').
    """
    if _leave_to_library(x):
        return _forward(x, weight, geometry)
    return _Depthwise.apply(x, weight, geometry)


def fan_out(x: Tensor, weights: Sequence[Tensor], geometries: Sequence[Geometry]) -> tuple[Tensor, ...]:
    """Convolve one input with several depthwise kernels, and share what their gradients have in common.

    Args:
        x: (B, C, H, W).
        weights: Kernels, each (C, 1, kh, kw).
        geometries: One for each kernel.

    Returns:
        One output for each kernel.
    """
    if _leave_to_library(x) or len(weights) == 1:
        return tuple(depthwise(x, w, g) for w, g in zip(weights, geometries, strict=True))
    return _FanOut.apply(x, tuple(geometries), *weights)


_DEFINED = (nn.Conv2d.forward, nn.Conv2d._conv_forward)


class FastDepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution without bias that computes by `depthwise`; what an `nn.Conv2d` may be turned into."""

    turned_from = nn.Conv2d

    @classmethod
    def turn(cls, convolution: nn.Conv2d) -> None:
        """Change the class of a convolution that has a `Geometry`; parameters and state dict stay."""
        convolution.__class__ = cls

    def forward(self, input: Tensor) -> Tensor:
        """Return (B, C, H', W')."""
        geometry, input = Geometry.of(self), settled(input)
        if geometry is None or self.bias is not None or input.dim() != 4 or not input.numel():
            return super().forward(input)
        if "_conv_forward" in self.__dict__:
            return super().forward(input)
        if (nn.Conv2d.forward, nn.Conv2d._conv_forward) != _DEFINED:
            return super().forward(input)
        return super().forward(input) if calls_are_watched() else depthwise(input, self.weight, geometry)


def _leave_to_library(x: Tensor) -> bool:
    """Whether the library's own backward is good (beside the CPU), or would have to choose the precision."""
    return x.device.type != "cpu" or not torch.is_grad_enabled() or torch.is_autocast_enabled("cpu")


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _forward(x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    return F.conv2d(x, weight, None, geometry.stride, geometry.padding, geometry.dilation, weight.shape[0])


def _grad_input(g: Tensor, weight: Tensor, geometry: Geometry, shape: torch.Size) -> Tensor:
    """The gradient by an input of `shape`."""
    reach = [d * (k - 1) for d, k in zip(geometry.dilation, weight.shape[2:], strict=True)]
    if geometry.stride == (1, 1) and all(p <= r for p, r in zip(geometry.padding, reach, strict=True)):
        padding = (reach[0] - geometry.padding[0], reach[1] - geometry.padding[1])
        return _forward(g, weight.flip(2, 3), Geometry((1, 1), padding, geometry.dilation))
    unread = torch.empty(
        shape, dtype=g.dtype, device=g.device, memory_format=torch.channels_last
    )  # only its form counts
    return _backward(g, unread, weight, geometry, (True, False))[0]


def _backward(
    g: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, needed: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    mask = [needed[0], needed[1], False]
    stride, padding, dilation = list(geometry.stride), list(geometry.padding), list(geometry.dilation)
    channels = weight.shape[0]
    return torch.ops.aten.convolution_backward(
        g, x, weight, None, stride, padding, dilation, False, [0, 0], channels, mask
    )[:2]


class _Prepared:
    """An input of several weight gradients; its rearranged copies are made once."""

    def __init__(self, x: Tensor) -> None:
        self.x = x
        self._windows: dict[tuple[int, int, int], Tensor] = {}
        self._parities: _Prepared | None = None

    def window(self, start: int, length: int, rows: int) -> Tensor:
        """Columns start to start + length and `rows` more rows above and below; zeros where the image has none."""
        key = (start, length, rows)
        if key == (0, self.x.shape[3], 0):
            return self.x
        if key not in self._windows:
            window = _window(self.x, start, length)
            self._windows[key] = F.pad(window, (0, 0, rows, rows)) if rows else window
        return self._windows[key]

    def parities(self) -> _Prepared:
        """Even and odd rows as more images, even and odd columns as more channels."""
        if self._parities is None:
            self._parities = _Prepared(_parities(self.x))
        return self._parities


def _window(x: Tensor, start: int, length: int) -> Tensor:
    """Columns start to start + length of a channels_last image; `F.pad` would first fill all of it with zeros."""
    b, c, h, w = x.shape
    columns = x.permute(0, 2, 3, 1)
    left, right = max(-start, 0), max(start + length - w, 0)
    parts = [columns[:, :, max(start, 0) : min(start + length, w)]]
    if left:
        parts.insert(0, x.new_zeros(b, h, left, c))
    if right:
        parts.append(x.new_zeros(b, h, right, c))
    return torch.cat(parts, dim=2).permute(0, 3, 1, 2)


def _parities(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (2 B, 2 C, ceil(H/2), ceil(W/2)), channels_last; in that memory format only rows are moved."""
    if x.shape[2] % 2 or x.shape[3] % 2:
        x = F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))
    b, c, h, w = x.shape
    rows = x.permute(0, 2, 3, 1).reshape(b, h // 2, 2, w // 2, 2 * c)
    return rows.transpose(1, 2).reshape(2 * b, h // 2, w // 2, 2 * c).permute(0, 3, 1, 2)


def _grad_weight(x: _Prepared, g: _Prepared, geometry: Geometry, kernel: tuple[int, int]) -> Tensor:
    """The gradient by a kernel of `kernel` rows and columns."""
    channels = g.x.shape[1]
    if geometry.dilation == (2, 2) and geometry.stride == (1, 1) and not any(p % 2 for p in geometry.padding):
        same_size = all(2 * p == 2 * (k - 1) for p, k in zip(geometry.padding, kernel, strict=True))
        if same_size:
            halved = Geometry((1, 1), (geometry.padding[0] // 2, geometry.padding[1] // 2))
            return _grad_weight(x.parities(), g.parities(), halved, kernel).view(2, channels, 1, *kernel).sum(0)
    if geometry.dilation != (1, 1) or kernel[1] <= _WIDEST:
        weight = g.x.new_empty(channels, 1, *kernel)
        return _backward(g.x, x.x, weight, geometry, (False, True))[1]
    # Images with fewer rows than the kernel are slow too, unless their padding is written out.
    rows = geometry.padding[0] if x.x.shape[2] < kernel[0] else 0
    vertical = Geometry(geometry.stride, (geometry.padding[0] - rows, 0))
    parts = []
    for first in range(0, kernel[1], _WIDEST):
        width = min(_WIDEST, kernel[1] - first)
        length = geometry.stride[1] * (g.x.shape[3] - 1) + width
        start = first - geometry.padding[1]
        like = g.x.new_empty(channels, 1, kernel[0], width)
        if start >= x.x.shape[3] or start + length <= 0:  # these columns of the kernel only ever saw padding
            parts.append(torch.zeros_like(like))
        else:
            parts.append(_backward(g.x, x.window(start, length, rows), like, vertical, (False, True))[1])
    return torch.cat(parts, dim=3)


class _Depthwise(torch.autograd.Function):
    """y(x, w)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
        ctx.geometry = geometry
        # What only the other half needs is not kept: an α-step has no weight gradients.
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        ctx.shape = x.shape
        return _forward(x, weight, geometry)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (g,) = grads
        x, weight = ctx.saved_tensors
        dx = _Spread.apply(g, weight, ctx.geometry, ctx.shape) if ctx.needs_input_grad[0] else None
        dw = _Tally.apply(x, g, ctx.geometry, weight.shape) if ctx.needs_input_grad[1] else None
        return dx, dw, None


class _Spread(torch.autograd.Function):
    """spread(g, w); its derivative in direction v is y(v, w) by g and tally(v, g) by w."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, weight: Tensor, geometry: Geometry, shape: torch.Size) -> Tensor:
        ctx.geometry = geometry
        ctx.save_for_backward(g, weight)
        return _grad_input(g, weight, geometry, shape)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (v,) = grads
        g, weight = ctx.saved_tensors
        dg = _Depthwise.apply(v, weight, ctx.geometry) if ctx.needs_input_grad[0] else None
        dw = _Tally.apply(v, g, ctx.geometry, weight.shape) if ctx.needs_input_grad[1] else None
        return dg, dw, None, None


class _Tally(torch.autograd.Function):
    """tally(x, g); its derivative in direction v is spread(g, v) by x and y(x, v) by g."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, g: Tensor, geometry: Geometry, shape: torch.Size) -> Tensor:
        ctx.geometry = geometry
        ctx.save_for_backward(x, g)
        return _grad_weight(_Prepared(x), _Prepared(g), geometry, (shape[2], shape[3]))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (v,) = grads
        x, g = ctx.saved_tensors
        dx = _Spread.apply(g, v, ctx.geometry, x.shape) if ctx.needs_input_grad[0] else None
        dg = _Depthwise.apply(x, v, ctx.geometry) if ctx.needs_input_grad[1] else None
        return dx, dg, None, None


class _FanOut(torch.autograd.Function):
    """y(x, w_1), y(x, w_2), ...; backward adds the input gradients in place and prepares x once."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, geometries: tuple[Geometry, ...], *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.geometries = geometries
        ctx.save_for_backward(x if any(ctx.needs_input_grad[2:]) else None, *weights)
        ctx.shape = x.shape
        ctx.set_materialize_grads(False)
        return tuple(_forward(x, w, geometry) for w, geometry in zip(weights, geometries, strict=True))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, *weights = ctx.saved_tensors
        differentiable = torch.is_grad_enabled()
        prepared = _Prepared(x) if x is not None else None
        dx: Tensor | None = None
        dws: list[Tensor | None] = []
        for g, w, geometry, needed in zip(grads, weights, ctx.geometries, ctx.needs_input_grad[2:], strict=True):
            dws.append(None)
            if g is None:
                continue
            if ctx.needs_input_grad[0]:
                part = _Spread.apply(g, w, geometry, ctx.shape)
                dx = part if dx is None else dx + part if differentiable else dx.add_(part)
            if needed and differentiable:
                dws[-1] = _Tally.apply(x, g, geometry, w.shape)
            elif needed:
                assert prepared is not None
                dws[-1] = _grad_weight(prepared, _Prepared(g), geometry, (w.shape[2], w.shape[3]))
        return dx, None, *dws
