"""The space of NAS-Bench-201: one small cell, repeated, whose every edge takes one of five operations.

Source: Dong and Yang 2020, section 2.1.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archgrad.cell import BuildCandidate, Cell
from archgrad.errors import OptionError
from archgrad.operations import Pool, ReLUConvBN, Zero
from archgrad.sizes import check_divides, check_fits_memory, check_whole

__all__ = ["NasBench201Network", "nasbench201"]


class _Residual(nn.Module):
    """Two 3x3 convolutions, the first with stride 2, beside an average pool and a pointwise convolution."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv_a = ReLUConvBN(c_in, c_out, 3, 2, 1)
        self.conv_b = ReLUConvBN(c_out, c_out, 3, 1, 1)
        self.shortcut = nn.Sequential(nn.AvgPool2d(2, stride=2, ceil_mode=True), nn.Conv2d(c_in, c_out, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.conv_b(self.conv_a(x))


class NasBench201Network(nn.Module):
    """Stem, three groups of equal cells with a residual reduction between them, classifier."""

    space_name = "nasbench201"

    def __init__(self, *, channels: int, cells: int, num_classes: int, in_channels: int, **of_cells: Any) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(in_channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
        blocks: list[nn.Module] = []
        for group in range(3):
            if group:
                blocks.append(_Residual(channels, 2 * channels))
                channels *= 2
            blocks.extend(_cell(channels, **of_cells) for _ in range(cells))
        self.blocks = nn.Sequential(*blocks)
        self.last = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, num_classes) of images (B, in_channels, H, W)."""
        x = self.last(self.blocks(self.stem(x)))
        return self.classifier(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


class _OneInput(nn.Module):
    def __init__(self, graph: Cell) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, x: Tensor) -> Tensor:
        return self.graph([x])


def _cell(channels: int, *, affine: bool, connected: bool, partial_channels: int) -> nn.Module:
    def convolution(kernel_size: int, parts: int) -> nn.Module:
        width = channels // parts
        return ReLUConvBN(width, width, kernel_size, 1, kernel_size // 2, affine=affine)

    candidates: dict[str, BuildCandidate] = {
        "none": lambda source, node, parts=1: Zero(1),
        "skip_connect": lambda source, node, parts=1: nn.Identity(),
        "nor_conv_1x1": lambda source, node, parts=1: convolution(1, parts),
        "nor_conv_3x3": lambda source, node, parts=1: convolution(3, parts),
        "avg_pool_3x3": lambda source, node, parts=1: Pool("avg", 1),
    }
    return _OneInput(
        Cell(
            3,
            candidates,
            n_inputs=1,
            n_kept=None,
            never=(),
            connected=connected,
            output="last",
            partial_channels=partial_channels,
            label="cell",
        )
    )


def nasbench201(
    channels: int = 16,
    cells: int = 5,
    num_classes: int = 10,
    *,
    in_channels: int = 3,
    stage: str = "search",
    connected: bool = True,
    partial_channels: int = 1,
) -> nn.Module:
    """Build the NAS-Bench-201 space for small images of any size.

    Args:
        channels: Channels of the first group, at least 1; each reduction doubles them.
        cells: Cells in each of the three groups, at least 1.
        num_classes: Number of classes.
        in_channels: Channels of the images.
        stage: "search" (BatchNorm on the edges without affine part) or "retrain" (with).
        connected: Whether a cell's output must depend on its input (see `Cell`); of the benchmark's 15,625 cells some
            have `none` on every path. False takes these, too.
        partial_channels: In the search stage, one of so many equal parts of the channels goes through the operations of
            an edge (see `Cell`); it divides `channels`. The retraining stage has all channels.

    Returns:
        A space with one shared cell "cell" of six edges.

    Raises:
        OptionError: A value outside its range.
    """
    sizes = {"channels": channels, "num_classes": num_classes, "in_channels": in_channels}
    for name, value in {**sizes, "cells": cells, "partial_channels": partial_channels}.items():
        check_whole(name, value, least=1)
    if stage not in ("search", "retrain"):
        raise OptionError(f"stage must be 'search' or 'retrain', but got stage={stage!r}.")

    check_divides(partial_channels, channels)
    retrain = stage == "retrain"
    parts = 1 if retrain else partial_channels

    def build(number: int) -> NasBench201Network:
        return NasBench201Network(cells=number, affine=retrain, connected=connected, partial_channels=parts, **sizes)

    check_fits_memory(build, cells=cells, **sizes)
    return build(cells)
