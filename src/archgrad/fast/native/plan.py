"""What a stage computes, as plain data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, TypeVar

import torch.nn.functional as F
from torch import Tensor

from archgrad.fast.depthwise import Geometry

__all__ = ["Plan", "Pool", "Unit", "understands"]

T = TypeVar("T")


class Pool(NamedTuple):
    """A pool with a square window; padding counts for "padded mean" alone, as zeros."""

    kind: Literal["max", "mean", "padded mean"]
    kernel: int
    stride: int
    padding: int = 0
    over_edge: bool = False
    """Whether the last window may reach over the edge, so that every pixel is in one."""

    def output_size(self, size: Sequence[int]) -> tuple[int, int]:
        """Return (H', W') for an input of (H, W)."""
        reach = 2 * self.padding - self.kernel + (self.stride - 1 if self.over_edge else 0)
        height, width = ((n + reach) // self.stride + 1 for n in size)
        return height, width

    def __call__(self, x: Tensor) -> Tensor:
        """Pool an image by PyTorch's operations."""
        if self.kind == "max":
            return F.max_pool2d(x, self.kernel, self.stride, self.padding, ceil_mode=self.over_edge)
        counts_padding = self.kind == "padded mean"
        return F.avg_pool2d(x, self.kernel, self.stride, self.padding, self.over_edge, counts_padding)


class Unit(NamedTuple):
    """A depthwise convolution and the projection behind it, or only the latter; a pool; or only a value to be added."""

    input: int
    """Which of the inputs it reads."""
    geometry: Geometry | None = None
    """Of the convolution; None if there is none."""
    relu: bool = False
    """It reads ReLU(input)."""
    projected: bool = True
    """Whether there is a projection; if not, there is no convolution either."""
    factorized: bool = False
    """The projection, without a convolution, is that of a FactorizedReduce: the first half of its outputs reads the
    even rows and columns of the input, the other half the odd ones."""
    pool: Pool | None = None
    """A pool, then without a projection; where one unit is a pool, all are."""
    wide: Geometry | None = None
    """Of the projection, without a convolution before it, where it is wide: a dense convolution of (O, C, k, k)."""
    factor: int | None = None
    """Which of the factors multiplies what it adds to a sum, image by image; None for none."""


@dataclass(frozen=True)
class Plan:
    """What a stage computes."""

    units: tuple[Unit, ...]
    eps: float = 1e-5
    """Of the BatchNorms behind the projections."""
    relu: bool = False
    """Outputs are those of a ReLU; then they are not summed, and all have a BatchNorm."""
    summed: bool = False
    """All units are added to one output."""

    def __post_init__(self) -> None:
        assert not self.relu or not (self.summed or self.values)
        assert self.summed or not self.has_factors

    @cached_property
    def normalised(self) -> list[int]:
        """The units with a BatchNorm, behind the projection or the pool."""
        return [k for k, unit in enumerate(self.units) if unit.projected or unit.pool is not None]

    @cached_property
    def values(self) -> list[int]:
        """The units that are only added."""
        return [k for k, unit in enumerate(self.units) if not unit.projected and unit.pool is None]

    @cached_property
    def has_factors(self) -> bool:
        """Whether a factor multiplies any unit."""
        return any(unit.factor is not None for unit in self.units)

    @cached_property
    def n_weights(self) -> int:
        """How many units have a convolution."""
        return sum(unit.geometry is not None for unit in self.units)

    @cached_property
    def n_projections(self) -> int:
        """How many units have a projection."""
        return sum(unit.projected for unit in self.units)

    def split(self, items: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any], Sequence[Any]]:
        """Return what belongs to the inputs, the weights of convolutions and the projections, from all in a row."""
        projections = len(items) - self.n_projections
        weights = projections - self.n_weights
        return items[:weights], items[weights:projections], items[projections:]

    def weight_of_each(self, weights: Sequence[T]) -> Iterator[T | None]:
        """Return the weight of every unit, from those of units with a convolution."""
        found = iter(weights)
        return (None if unit.geometry is None else next(found) for unit in self.units)

    def projection_of_each(self, projections: Sequence[T]) -> Iterator[T | None]:
        """Return the projection of every unit, from those of units with one."""
        found = iter(projections)
        return (next(found) if unit.projected else None for unit in self.units)


def understands(geometry: Geometry, kernel: Sequence[int]) -> bool:
    """Return whether the kernels compute such a convolution, depthwise or dense: the same both ways, of stride 1 or 2.

    Args:
        geometry: Stride, padding and dilation.
        kernel: Height and width.
    """
    pairs = (geometry.stride, geometry.padding, geometry.dilation, kernel)
    reach = geometry.dilation[0] * (kernel[0] - 1)
    return (
        all(vertical == horizontal for vertical, horizontal in pairs)
        and geometry.stride[0] in (1, 2)
        and geometry.padding[0] <= reach
    )
