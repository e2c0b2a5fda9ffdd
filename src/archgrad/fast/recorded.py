"""A cell's program, and where its operands are read at every pass."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from archgrad.fast import native
from archgrad.fast.batch_norms import track
from archgrad.fast.biases import TwoGrids, with_biases

__all__ = ["Read", "Recorded", "bias_of", "nothing_behind", "weight_of"]

Read = Callable[[], Tensor]
"""Returns an operand as it is now."""


class Recorded(NamedTuple):
    """A cell's program, and where its operands are read at every pass."""

    program: native.Program
    convolved: list[nn.Conv2d]
    """Depthwise convolutions in the order of their units."""
    projected: list[Read]
    """The projections, wide ones included, and the kernels of convolutions that a library computes."""
    biased: list[tuple[int, list[nn.Conv2d]]]
    """Number of a projection, and the convolutions with biases of its operation, or of all that enter the same node."""
    mixing: list[tuple[slice, Tensor]]
    """Edges, and (K,), which of their mixing weights are used, counted through them; behind those of all edges the
    weights of the edges themselves are counted. One for all of a cell, or one for every node."""
    noisy: list[nn.Module]
    """To whose output noise is added, in training mode."""
    tracked: list[tuple[int, list[nn.BatchNorm2d], Tensor]]
    """Number of pixels, norms, and the row of the statistics that each would have seen."""
    norms: list[nn.BatchNorm2d]
    """The first of those that see each row of the statistics."""

    def weights(self) -> list[Tensor]:
        """The kernels of the depthwise convolutions."""
        return [convolution.weight for convolution in self.convolved]

    def projections(self) -> list[Tensor]:
        """The others, (O, C, k, k) each, and biases of convolutions that a library computes, (O,) each."""
        found = [read() for read in self.projected]
        for number, convolutions in self.biased:
            found[number] = with_biases(found[number], [convolution.bias for convolution in convolutions])
        return found

    def move_statistics(self, mean: Tensor, variance: Tensor) -> None:
        """Let the BatchNorms see those of a batch, a row for each unit with one."""
        for count, norms, rows in self.tracked:
            track(norms, mean[rows], variance[rows], count)


def weight_of(layer: nn.Conv2d | TwoGrids) -> Read:
    """Return what reads the weight of a convolution, or of both one after the other."""
    return partial(_weight_of, layer)


def bias_of(convolution: nn.Conv2d) -> Read:
    """Return what reads the bias of a convolution that has one."""
    return partial(_bias_of, convolution)


def nothing_behind(depthwise: nn.Conv2d) -> Read:
    """Return what reads a projection behind a depthwise convolution that changes nothing."""
    return partial(_identity_of, depthwise)


def _weight_of(layer: nn.Conv2d | TwoGrids) -> Tensor:
    return torch.cat([half.weight for half in layer]) if isinstance(layer, TwoGrids) else layer.weight


def _bias_of(convolution: nn.Conv2d) -> Tensor:
    assert convolution.bias is not None
    return convolution.bias


def _identity_of(depthwise: nn.Conv2d) -> Tensor:
    weight = depthwise.weight
    return torch.eye(len(weight), dtype=weight.dtype, device=weight.device)[..., None, None]
