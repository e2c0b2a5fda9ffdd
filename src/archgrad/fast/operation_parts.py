"""The steps of a program that an operation is made of: what the compiled kernels compute, and what PyTorch does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, cast

from torch import nn

from archgrad.fast import native
from archgrad.fast.biases import TwoGrids
from archgrad.fast.branches import Branch, Stage
from archgrad.fast.chains import Layer
from archgrad.fast.depthwise import Geometry
from archgrad.fast.grids import grid_size
from archgrad.fast.recognise import as_wide, is_pointwise
from archgrad.fast.recorded import Read, nothing_behind, weight_of

__all__ = ["KnownUnit", "OperationPart", "parts_of", "unit_of"]

Kind = Literal["stage", "convolution", "norm", "activation"]


class OperationPart(NamedTuple):
    """What becomes one step, or a unit of one, and an activation before it."""

    kind: Kind
    """"stage" and "norm" are for the kernels: convolutions with the BatchNorm behind them, or that alone."""
    activation: nn.Module | None
    layers: tuple[Layer, ...]
    adds_bias: bool = False
    """Of a convolution, whether its bias is added; else what is behind it takes the bias out again."""


def parts_of(branch: Branch, channels: int) -> list[OperationPart]:
    """Return the steps of an operation that is made of convolutions; nothing of another.

    Args:
        branch: The operation.
        channels: Of the images that the kernels read and give.
    """
    if branch.form in ("identity", "zero", "pool", "pool-norm", "inverted"):
        return []
    return [part for stage in branch.stages for part in _parts_of_stage(stage, channels)]


def _parts_of_stage(stage: Stage, channels: int) -> list[OperationPart]:
    if not stage.layers:
        return [OperationPart("activation", stage.activation, ())]
    *convolutions, last = stage.layers
    if not isinstance(last, nn.BatchNorm2d):
        (convolution,) = cast("tuple[nn.Conv2d]", stage.layers)
        return [OperationPart("convolution", stage.activation, stage.layers, convolution.bias is not None)]
    activation, found = stage.activation, list[OperationPart]()
    while convolutions and not _by_kernels(convolutions, channels):
        found.append(OperationPart("convolution", activation, (convolutions.pop(0),)))
        activation = None
    kind: Kind = "stage" if convolutions else "norm"
    return [*found, OperationPart(kind, activation, (*convolutions, last))]


def _by_kernels(convolutions: Sequence[Layer], channels: int) -> bool:
    """Whether the kernels compute these, with the BatchNorm behind them, for images of so many channels."""
    first = convolutions[0]
    if isinstance(first, TwoGrids):
        even, odd = first.even.weight.shape, first.odd.weight.shape
        return even[0] + odd[0] == channels and even[1:] == odd[1:] == (channels, 1, 1)
    *before, last = cast("list[nn.Conv2d]", convolutions)
    if before or (last.groups > 1 and not is_pointwise(last)):
        depthwise = before[0] if before else last
        geometry, shape = Geometry.of(depthwise), depthwise.weight.shape
        if geometry is None or shape[:2] != (channels, 1) or not native.understands(geometry, shape[2:]):
            return False
        return not before or last.weight.shape == (channels, channels, 1, 1)
    known = is_pointwise(last) or as_wide(last, in_program=True) is not None
    return known and last.weight.shape[:2] == (channels, channels)


class KnownUnit(NamedTuple):
    """A unit of the kernels with what it reads."""

    unit: native.Unit
    size: tuple[int, int]
    """(H, W) of what it gives."""
    convolved: Sequence[nn.Conv2d]
    """Its depthwise convolution, if it has one."""
    projection: Read


def unit_of(convolutions: Sequence[Layer], size: tuple[int, int], *, relu: bool) -> KnownUnit:
    """Return what computes the convolutions of a part that is for the kernels.

    Args:
        convolutions: One, or a depthwise and a pointwise one.
        size: (H, W) of what they read.
        relu: Whether they read it through a ReLU.
    """
    first = convolutions[0]
    if isinstance(first, TwoGrids):
        unit = native.Unit(0, relu=relu, factorized=True)
        return KnownUnit(unit, grid_size(size), (), weight_of(first))
    *before, last = cast("list[nn.Conv2d]", convolutions)
    if before or (last.groups > 1 and not is_pointwise(last)):
        depthwise = before[0] if before else last
        geometry = cast(Geometry, Geometry.of(depthwise))
        projection = weight_of(last) if before else nothing_behind(last)
        size = geometry.output_size(size, depthwise.weight.shape[2:])
        return KnownUnit(native.Unit(0, geometry, relu=relu), size, [depthwise], projection)
    if is_pointwise(last):
        return KnownUnit(native.Unit(0, relu=relu), size, (), weight_of(last))
    wide = cast(Geometry, as_wide(last, in_program=True))
    return KnownUnit(
        native.Unit(0, relu=relu, wide=wide), wide.output_size(size, last.weight.shape[2:]), (), weight_of(last)
    )
