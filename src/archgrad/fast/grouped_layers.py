"""E layers of equal settings as one layer, with their outputs side by side in the channels of one image.

Layers that read one image of C channels are numbered e, their outputs o:

- depthwise convolutions are one convolution of C groups with E kernels each; its channels come in the order (c, e);
- pointwise convolutions are one product with an (E O, E C) matrix that is zero between layers e and e' != e;
- BatchNorms are one over E O channels. What each output is weighted with is its gamma.

On a GPU a small operation takes about as long as it takes to start one, and a matrix product with 16 columns about as
long as one with 64, so that the zeros are cheaper than E products would be. Images are contiguous (B, E O, H, W).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archgrad.fast.batch_norms import affine, fixed_statistics, track, uses_batch
from archgrad.fast.depthwise import Geometry

__all__ = ["Order", "Statistics", "as_pairs", "convolve", "depthwise", "normalise", "project", "stacked"]

Order = Literal["shared", "channel first", "layer first"]
"""Of the input's channels: C that all layers read; or E C as (c, e), or as (e, c)."""


class Statistics(NamedTuple):
    """What BatchNorms saw."""

    norms: Sequence[nn.BatchNorm2d]
    mean: Tensor
    """(T, C)."""
    inverse: Tensor
    """(T, C), (biased variance + eps)^(-1/2)."""
    pixels: int
    """Number of values behind each."""

    def track(self) -> None:
        """Move the running statistics."""
        variance = self.inverse.pow(-2).sub_(self.norms[0].eps)
        track(self.norms, self.mean, variance, self.pixels)


def stacked(groups: Sequence[Sequence[Tensor]], dtype: torch.dtype | None) -> Iterator[Tensor]:
    """Yield each group of equal shapes as one tensor, (E, ...); all groups are brought together in one operation.

    Args:
        groups: Weights.
        dtype: Type to bring them to; None leaves it.
    """
    if not groups:
        return
    flat = torch.cat([weight.reshape(-1) for group in groups for weight in group])
    flat = flat if dtype is None else flat.to(dtype)
    parts = flat.split([len(group) * group[0].numel() for group in groups])
    for group, part in zip(groups, parts, strict=True):
        yield part.view(len(group), *group[0].shape)


def depthwise(x: Tensor, weights: Tensor, geometry: Geometry, order: Order) -> tuple[Tensor, Order]:
    """Convolve every channel with its own kernels; `weights` is (E, C, 1, kh, kw). Returns the order of the output."""
    layers, channels = weights.shape[:2]
    if order == "shared":
        weights, groups, order = weights.transpose(0, 1), channels, "channel first"
    else:
        assert order == "layer first"
        groups = layers * channels
    kernels = weights.reshape(layers * channels, *weights.shape[2:])
    return F.conv2d(x, kernels, None, geometry.stride, geometry.padding, geometry.dilation, groups), order


def project(x: Tensor, matrices: Tensor, order: Order) -> Tensor:
    """Apply pointwise convolutions; `matrices` is (E, O, C). Returns channels in the order (e, o)."""
    layers, outputs, channels = matrices.shape
    if order != "shared" and layers > 1:
        matrices = torch.diag_embed(matrices.permute(1, 2, 0), dim1=0, dim2=3 if order == "channel first" else 2)
    b, _, h, w = x.shape
    matrix = matrices.reshape(1, layers * outputs, channels if order == "shared" else layers * channels)
    return torch.bmm(matrix.expand(b, -1, -1), x.reshape(b, -1, h * w)).view(b, -1, h, w)


def convolve(x: Tensor, weights: Tensor, convolution: nn.Conv2d) -> Tensor:
    """Apply ordinary convolutions to what all read; `weights` is (E, O, C, kh, kw). Returns the order (e, o)."""
    stride, padding, dilation = (as_pairs(convolution)[name] for name in ("stride", "padding", "dilation"))
    return F.conv2d(x, weights.flatten(0, 1), None, stride, padding, dilation)


def as_pairs(convolution: nn.Conv2d) -> dict[str, tuple[int, int]]:
    """Return stride, padding and dilation as (vertical, horizontal)."""
    settings = ((name, getattr(convolution, name)) for name in ("stride", "padding", "dilation"))
    return {name: (value, value) if isinstance(value, int) else (value[0], value[1]) for name, value in settings}


def normalise(x: Tensor, norms: Sequence[nn.BatchNorm2d], scale: Tensor | None) -> tuple[Tensor, Statistics | None]:
    """Apply BatchNorms of equal settings, and multiply the output of each by its scale.

    Args:
        x: (B, E O, H, W), in the order (e, o).
        norms: E of them.
        scale: (E,); None for none.

    Returns:
        The same shape; and what the norms saw, or None where they normalise with running statistics.
    """
    gammas, betas = zip(*(affine(norm) for norm in norms), strict=True)
    gamma = None if gammas[0] is None else torch.cat(gammas)
    beta = None if betas[0] is None else torch.cat(betas)
    if scale is not None:
        spread = scale.unsqueeze(1).repeat(1, norms[0].num_features).flatten()  # expanded: wrong gradients (torch 2.14)
        gamma = spread if gamma is None else gamma * spread
        beta = None if beta is None else beta * spread
    if not uses_batch(norms[0]):
        mean, variance = (values.flatten() for values in fixed_statistics(norms))
        return F.batch_norm(x, mean, variance, gamma, beta, False, 0.0, norms[0].eps), None
    y, mean, inverse = torch.native_batch_norm(x, gamma, beta, None, None, True, 0.0, norms[0].eps)
    rows = (len(norms), -1)
    return y, Statistics(norms, mean.detach().view(rows), inverse.detach().view(rows), x.numel() // x.shape[1])
