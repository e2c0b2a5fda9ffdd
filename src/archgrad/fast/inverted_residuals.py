"""Inverted residuals by the compiled kernels: what of them is read at every pass, and what their BatchNorms track."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeGuard, cast

import torch
from torch import Tensor, nn

from archgrad.distributed.sync_batchnorm import is_synchronised
from archgrad.fast import native
from archgrad.fast.batch_norms import affine, track, uses_batch
from archgrad.fast.biases import kernel_of
from archgrad.fast.branches import Branch
from archgrad.fast.depthwise import Geometry
from archgrad.fast.pointwise import NATIVE_UP_TO
from archgrad.fast.unchanged import StructureCache

__all__ = ["InvertedResiduals", "inverted_alone", "suits"]


_PIXELS_PER_CHANNEL = 16
"""From so many on the kernels are preferred: with fewer, the product of the channels' covariance with the first
convolution takes what is saved (measured on AVX-512)."""


def suits(branch: Branch, shape: Sequence[int]) -> bool:
    """Return whether the kernels compute an operation, and are the quicker way.

    It is an inverted residual whose statistics are one process's, of not too many channels for its pixels.

    Args:
        branch: The operation.
        shape: (B, C, H, W), of its input.
    """
    if branch.form != "inverted" or any(is_synchronised(layer) for layer in branch.layers if _is_norm(layer)):
        return False
    channels, pixels = shape[1], shape[0] * shape[2] * shape[3]
    outputs = cast(nn.Conv2d, branch.layers[-2]).weight.shape[0]
    if max(channels, outputs) > NATIVE_UP_TO or pixels < _PIXELS_PER_CHANNEL * channels:
        return False
    convolution = cast(nn.Conv2d, branch.layers[-5])
    geometry = Geometry.of(convolution)
    return geometry is not None and native.understands(geometry, convolution.weight.shape[2:])


def inverted_alone(branch: Branch, x: Tensor, kept: StructureCache) -> Tensor | None:
    """Return what an inverted residual gives, (B, C', H', W'), channels_last; None where the kernels do not take it.

    Args:
        branch: The operation, which fits `x`.
        x: (B, C, H, W).
        kept: Keeps its parts, as long as the operation stays as it is.
    """
    found = kept.find(("inverted", x.shape), lambda: InvertedResiduals([branch]) if suits(branch, x.shape) else None)
    one = x.new_ones(1)
    if found is None or not found.take(x, one):
        return None
    return found.blend(x, one, (), one if branch.is_residual else None, keeps_input=branch.is_residual)


class InvertedResiduals:
    """Several inverted residuals that read one image, to be added up.

    Args:
        branches: K operations that `suits` is true of; as long as they stay as they are.
    """

    def __init__(self, branches: Sequence[Branch]) -> None:
        self._parts = [_Parts(branch) for branch in branches]

    def take(self, x: Tensor, weights: Tensor) -> bool:
        """Return whether the kernels take these tensors, and all parameters and statistics."""
        own = (t for part in self._parts for t in (*part.operands(), *part.tensors()) if t is not None)
        return native.takes(x, weights, *own)

    def blend(
        self, x: Tensor, weights: Tensor, values: Sequence[Tensor], mixing: Tensor | None, *, keeps_input: bool
    ) -> Tensor:
        """Return the weighted sum of what they give, without the inputs that they add, and of more values.

        Args:
            x: (B, C, H, W), which they fit, and `take` was true of.
            weights: (K,).
            values: (B, C', H', W') each.
            mixing: Weights of the values, first that of the input if it is one; None if there are none.
            keeps_input: Whether the input itself is one of the values, the first.

        Returns:
            (B, C', H', W'), channels_last.
        """
        parts = self._parts
        gammas, betas = zip(*(affine(part.norms[-1]) for part in parts), strict=True)
        scale = weights.unsqueeze(1).expand(-1, parts[0].norms[-1].num_features)
        if any(gamma is not None for gamma in gammas):
            scale = scale * torch.stack([torch.ones_like(scale[0]) if gamma is None else gamma for gamma in gammas])
        moved = [k for k, beta in enumerate(betas) if beta is not None]
        y, statistics = native.blend_inverted(
            native.Blend(tuple(part.block for part in parts), keeps_input),
            x,
            [part.operands() for part in parts],
            scale,
            shift=weights[moved] @ torch.stack([betas[k] for k in moved]) if moved else None,
            fixed=[part.fixed() for part in parts],
            values=values,
            mixing=mixing,
        )
        _track(parts, statistics, x, y)
        return y


class _Parts:
    """The layers of an inverted residual."""

    def __init__(self, branch: Branch) -> None:
        layers = branch.layers
        self.norms = [layer for layer in layers if _is_norm(layer)]
        convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
        self.expansion = convolutions[0] if len(convolutions) == 3 else None
        self.depthwise, self.projection = convolutions[-2:]
        activation = layers[-3]
        eps = [norm.eps for norm in self.norms]
        self.block = native.Inverted(
            cast(Geometry, Geometry.of(self.depthwise)),
            self.expansion is not None,
            (eps[0], eps[-2], eps[-1]),
            activation.max_val if isinstance(activation, nn.ReLU6) else None,
        )

    def operands(self) -> native.InvertedOperands:
        """What is read beside the input."""
        first = (None, None) if self.expansion is None else affine(self.norms[0])
        expansion = None if self.expansion is None else kernel_of(self.expansion)
        second = affine(self.norms[-2])
        depthwise, projection = kernel_of(self.depthwise), kernel_of(self.projection)
        return native.InvertedOperands(expansion, *first, depthwise, *second, projection)

    def tensors(self) -> Iterator[Tensor | None]:
        """What is read beside these."""
        yield from affine(self.norms[-1])
        for pair in self.fixed():
            yield from pair or ()

    def fixed(self) -> list[tuple[Tensor, Tensor] | None]:
        """What each BatchNorm normalises with; None for the statistics of the batch."""
        own = [
            None if uses_batch(norm) else (cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var))
            for norm in self.norms
        ]
        return own if self.expansion is not None else [None, *own]


def _track(parts: Sequence[_Parts], statistics: Sequence[native.Statistics], x: Tensor, y: Tensor) -> None:
    """Move the running statistics of all BatchNorms that normalised with those of the batch."""
    seen: dict[tuple[int, int], list[tuple[nn.BatchNorm2d, tuple[Tensor, Tensor]]]] = {}
    pixels = (x.numel() // x.shape[1], *(y.numel() // y.shape[1],) * 2)
    for part, own in zip(parts, statistics, strict=True):
        n = len(part.norms)
        for norm, pair, count in zip(part.norms, own[-n:], pixels[-n:], strict=True):
            if uses_batch(norm) and pair is not None:
                seen.setdefault((count, norm.num_features), []).append((norm, pair))
    for (count, _), group in seen.items():
        means, variances = (torch.stack(which) for which in zip(*(pair for _, pair in group), strict=True))
        track([norm for norm, _ in group], means, variances, count)


def _is_norm(layer: object) -> TypeGuard[nn.BatchNorm2d]:
    return isinstance(layer, nn.modules.batchnorm._BatchNorm)
