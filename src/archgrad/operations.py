"""The operations of the published convolutional spaces.

Children carry the names and numbers that the authors' state dicts use, so that weights move between the two by a plain
renaming. Shapes are (B, C, H, W); stride 2 gives ceil(H/2), ceil(W/2) everywhere, so that odd sizes work too.
Source: Liu et al. 2019, section 3.1; Dong and Yang 2020 for NAS-Bench-201.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archgrad.errors import SpaceError
from archgrad.exactness import as_defined, is_exactly

__all__ = [
    "DARTS_OPERATIONS",
    "DARTS_PRIMITIVES",
    "ROBUST_PRIMITIVES",
    "ConvPair",
    "DilConv",
    "DropPath",
    "FactorizedReduce",
    "Noise",
    "Pool",
    "PoolBN",
    "Primitives",
    "ReLUConvBN",
    "SepConv",
    "Zero",
    "is_skip",
]


as_defined(nn.Conv2d)


class Zero(nn.Module):
    """No connection: zeros of the output's shape."""

    passes_nothing = True
    """That the output does not depend on the input."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Return zeros of shape (B, C, ceil(H/stride), ceil(W/stride))."""
        return x[:, :, :: self.stride, :: self.stride].mul(0.0)


class Noise(nn.Module):
    """Normal random numbers of the output's shape, new in each pass (Zela et al. 2020, space S4)."""

    passes_nothing = True
    """That the output does not depend on the input."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, ceil(H/stride), ceil(W/stride))."""
        return torch.randn_like(x[:, :, :: self.stride, :: self.stride])


def Pool(kind: str, stride: int) -> nn.Module:  # noqa: N802 (it stands for the module that it builds)
    """Build a 3x3 "max" or "avg" pool with padding 1; the average leaves the padding out of the count."""
    if kind == "max":
        return nn.MaxPool2d(3, stride=stride, padding=1)
    return nn.AvgPool2d(3, stride=stride, padding=1, count_include_pad=False)


class PoolBN(nn.Sequential):
    """A pool followed by BatchNorm without affine, as the search network has it."""

    def __init__(self, kind: str, channels: int, stride: int) -> None:
        super().__init__(Pool(kind, stride), nn.BatchNorm2d(channels, affine=False))


class ReLUConvBN(nn.Module):
    """ReLU, convolution without bias, BatchNorm."""

    def __init__(
        self, c_in: int, c_out: int, kernel_size: int, stride: int = 1, padding: int = 0, *, affine: bool = True
    ) -> None:
        super().__init__()
        self.op = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(c_in, c_out, kernel_size, stride=stride, padding=padding, bias=False),
            nn.BatchNorm2d(c_out, affine=affine),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, c_out, H', W')."""
        return self.op(x)


class DilConv(nn.Module):
    """ReLU, dilated depthwise convolution, pointwise convolution, BatchNorm."""

    def __init__(self, c_in: int, c_out: int, kernel_size: int, stride: int, *, affine: bool = True) -> None:
        super().__init__()
        self.op = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(
                c_in, c_in, kernel_size, stride=stride, padding=kernel_size - 1, dilation=2, groups=c_in, bias=False
            ),
            nn.Conv2d(c_in, c_out, 1, bias=False),
            nn.BatchNorm2d(c_out, affine=affine),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, c_out, H', W')."""
        return self.op(x)


class SepConv(nn.Module):
    """Twice ReLU, depthwise convolution, pointwise convolution, BatchNorm; the first time with the stride."""

    def __init__(self, c_in: int, c_out: int, kernel_size: int, stride: int, *, affine: bool = True) -> None:
        super().__init__()
        padding = kernel_size // 2
        self.op = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(c_in, c_in, kernel_size, stride=stride, padding=padding, groups=c_in, bias=False),
            nn.Conv2d(c_in, c_in, 1, bias=False),
            nn.BatchNorm2d(c_in, affine=affine),
            nn.ReLU(),
            nn.Conv2d(c_in, c_in, kernel_size, padding=padding, groups=c_in, bias=False),
            nn.Conv2d(c_in, c_out, 1, bias=False),
            nn.BatchNorm2d(c_out, affine=affine),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, c_out, H', W')."""
        return self.op(x)


class ConvPair(nn.Module):
    """ReLU, a 1x7 and a 7x1 convolution, BatchNorm (an operation of NASNet's and AmoebaNet's cells)."""

    def __init__(self, channels: int, stride: int, *, affine: bool = True) -> None:
        super().__init__()
        self.op = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(channels, channels, (1, 7), stride=(1, stride), padding=(0, 3), bias=False),
            nn.Conv2d(channels, channels, (7, 1), stride=(stride, 1), padding=(3, 0), bias=False),
            nn.BatchNorm2d(channels, affine=affine),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, channels, H', W')."""
        return self.op(x)


class FactorizedReduce(nn.Module):
    """ReLU, two stride-2 pointwise convolutions one pixel apart, joined; BatchNorm.

    An odd height or width is padded by one zero at its end for the second convolution.
    """

    def __init__(self, c_in: int, c_out: int, *, affine: bool = True) -> None:
        super().__init__()
        if c_out % 2:
            raise SpaceError(f"FactorizedReduce needs an even number of output channels, but got {c_out}.")
        self.conv_1 = nn.Conv2d(c_in, c_out // 2, 1, stride=2, bias=False)
        self.conv_2 = nn.Conv2d(c_in, c_out // 2, 1, stride=2, bias=False)
        self.bn = nn.BatchNorm2d(c_out, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, c_out, ceil(H/2), ceil(W/2))."""
        x = F.relu(x)
        shifted = x[:, :, 1:, 1:]
        if x.shape[-2] % 2 or x.shape[-1] % 2:
            shifted = F.pad(shifted, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2))
        return self.bn(torch.cat([_every_other(self.conv_1, x), _every_other(self.conv_2, shifted)], dim=1))


def _every_other(convolution: nn.Module, x: Tensor) -> Tensor:
    """A pointwise convolution of stride 2; pixels are picked before it.

    oneDNN (torch 2.14, CPU) writes past its buffer in the weight gradient of a strided pointwise convolution of at most
    four channels in channels_last. A convolution that was changed is called as it is.
    """
    if not is_exactly(convolution, nn.Conv2d):
        return convolution(x)
    plain = cast(nn.Conv2d, convolution)
    if plain.stride != (2, 2) or plain.padding != (0, 0) or plain.weight.shape[2:] != (1, 1):
        return plain(x)
    return F.conv2d(x[:, :, ::2, ::2], plain.weight, plain.bias, groups=plain.groups)


class DropPath(nn.Module):
    """Zero a sample's path with probability `p` while training and scale the others by 1 / (1 - p).

    Set `p` (from 0 to 1) before each epoch; it starts at 0. Source: Larsson et al. 2017, as Liu et al. 2019 train.
    """

    def __init__(self, p: float = 0.0) -> None:
        super().__init__()
        self.p = p

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        return f"p={self.p}"

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`, (B, ...), with whole samples dropped."""
        return x * self.draw(x) if self.drops else x

    @property
    def drops(self) -> bool:
        """Whether `forward` draws what it drops."""
        return self.training and self.p != 0

    def draw(self, x: Tensor) -> Tensor:
        """Return what each sample is multiplied by, (B, 1, ...), of as many dimensions as `x`: 0 or 1 / (1 - p)."""
        keep = 1.0 - self.p
        mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep)
        return mask / keep if keep > 0 else mask


def _skip(channels: int, stride: int, affine: bool) -> nn.Module:
    return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, affine=affine)


Primitives = Sequence[str] | Mapping[str, Sequence[Sequence[str]]]
"""Names of candidates: of every edge, or by cell of each edge."""
DARTS_PRIMITIVES = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
"""The candidates of the paper's edges, in the authors' order."""

_SKIP, _MAX, _AVG, _SEP3 = "skip_connect", "max_pool_3x3", "avg_pool_3x3", "sep_conv_3x3"
_DIL3, _DIL5 = "dil_conv_3x3", "dil_conv_5x5"
ROBUST_PRIMITIVES: dict[str, Primitives] = {
    "s1": {
        "normal": (
            *((_SKIP, _DIL3), (_SKIP, _DIL5)),
            *((_SKIP, _DIL5), (_SKIP, _SEP3), (_SKIP, _DIL3)),
            *((_MAX, _SKIP), (_SKIP, _SEP3), (_SKIP, _SEP3), (_SKIP, _DIL3)),
            *((_SKIP, _SEP3), (_MAX, _SKIP), (_SKIP, _DIL3), (_DIL3, _DIL5), (_DIL3, _DIL5)),
        ),
        "reduce": (
            *((_MAX, _AVG), (_MAX, _DIL3)),
            *((_MAX, _AVG), (_MAX, _AVG), (_SKIP, _DIL5)),
            *((_MAX, _AVG), (_MAX, _SEP3), (_SKIP, _DIL3), (_SKIP, _DIL5)),
            *((_MAX, _AVG), (_MAX, _AVG), (_SKIP, _DIL5), (_SKIP, _DIL5), (_SKIP, _DIL5)),
        ),
    },
    "s2": (_SKIP, _SEP3),
    "s3": ("none", _SKIP, _SEP3),
    "s4": ("noise", _SEP3),
}
"""The candidates of RobustDARTS' spaces (Zela et al. 2020, section 4); S5 is the paper's.

Those of S1, which the authors found by searches in the paper's space, are two of an edge's own: by cell, edges node by
node and then by source.
"""

DARTS_OPERATIONS: dict[str, Callable[[int, int, bool], nn.Module]] = {
    "none": lambda channels, stride, affine: Zero(stride),
    "max_pool_3x3": lambda channels, stride, affine: Pool("max", stride),
    "avg_pool_3x3": lambda channels, stride, affine: Pool("avg", stride),
    "skip_connect": _skip,
    "sep_conv_3x3": lambda channels, stride, affine: SepConv(channels, channels, 3, stride, affine=affine),
    "sep_conv_5x5": lambda channels, stride, affine: SepConv(channels, channels, 5, stride, affine=affine),
    "sep_conv_7x7": lambda channels, stride, affine: SepConv(channels, channels, 7, stride, affine=affine),
    "dil_conv_3x3": lambda channels, stride, affine: DilConv(channels, channels, 3, stride, affine=affine),
    "dil_conv_5x5": lambda channels, stride, affine: DilConv(channels, channels, 5, stride, affine=affine),
    "conv_7x1_1x7": lambda channels, stride, affine: ConvPair(channels, stride, affine=affine),
    "noise": lambda channels, stride, affine: Noise(stride),
}
"""Name -> function of (channels, stride, affine) that builds the operation of a retraining network."""
_SKIPS = ("skip", "identity")


def is_skip(name: str) -> bool:
    """Return whether an operation is a skip connection by its name."""
    return any(word in name.lower() for word in _SKIPS)
