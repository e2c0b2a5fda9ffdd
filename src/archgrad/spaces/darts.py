"""The convolutional space of DARTS: its search network and its retraining networks for CIFAR-10 and ImageNet.

Source: Liu et al. 2019, sections 2.1, 3.1 and appendix A.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archgrad.cell import BuildCandidate, Cell, DerivedCell
from archgrad.errors import ArchitectureError, OptionError, SpaceError
from archgrad.operations import (
    DARTS_OPERATIONS,
    DARTS_PRIMITIVES,
    DropPath,
    FactorizedReduce,
    PoolBN,
    ReLUConvBN,
)

__all__ = ["DartsCell", "DartsNetwork", "darts_cifar", "darts_imagenet"]


def _search_candidate(name: str, channels: int, stride: int) -> nn.Module:
    """In the search network no BatchNorm has an affine part (it would absorb the mixing weight), and pools have one."""
    if name in ("max_pool_3x3", "avg_pool_3x3"):
        return PoolBN(name[:3], channels, stride)
    return DARTS_OPERATIONS[name](channels, stride, False)


class DartsCell(nn.Module):
    """One cell: both inputs brought to `channels` by a pointwise convolution, then the graph of choices.

    Args:
        c_prev_prev: Channels of the output of the cell before the previous one.
        c_prev: Channels of the output of the previous cell.
        channels: Channels of every node.
        reduction: Whether edges from the inputs have stride 2.
        reduction_prev: Whether the previous cell was a reduction, so that its own input is twice as large.
        nodes: Number of nodes; the retraining stage takes it from the architecture.
        retrain: Build for retraining: affine BatchNorm, pools without, drop path, and only what is chosen.
    """

    def __init__(
        self,
        c_prev_prev: int,
        c_prev: int,
        channels: int,
        *,
        reduction: bool,
        reduction_prev: bool,
        nodes: int,
        retrain: bool,
    ) -> None:
        super().__init__()
        self.preprocess0: nn.Module | None = (
            FactorizedReduce(c_prev_prev, channels, affine=retrain)
            if reduction_prev
            else ReLUConvBN(c_prev_prev, channels, 1, affine=retrain)
        )
        self.preprocess1: nn.Module | None = ReLUConvBN(c_prev, channels, 1, affine=retrain)

        def build(name: str, source: int, node: int) -> nn.Module:
            stride = 2 if reduction and source < 2 else 1
            if retrain:
                return DARTS_OPERATIONS[name](channels, stride, True)
            return _search_candidate(name, channels, stride)

        names = tuple(DARTS_OPERATIONS) if retrain else DARTS_PRIMITIVES
        candidates: dict[str, BuildCandidate] = {name: partial(build, name) for name in names}
        self.graph: nn.Module = Cell(
            nodes,
            candidates,
            lazy=retrain,
            drop_path=DropPath() if retrain else None,
            label="reduce" if reduction else "normal",
        )

    def after_derive(self) -> None:
        """Drop the preprocessing of an input that the derived graph does not use."""
        graph = cast(DerivedCell, self.graph)
        if 0 not in graph.used_inputs:
            self.preprocess0 = None
        if 1 not in graph.used_inputs:
            self.preprocess1 = None

    def forward(self, prev_prev: Tensor, prev: Tensor) -> Tensor:
        """Return (B, joined nodes * channels, H', W')."""
        return self.graph(
            [
                None if self.preprocess0 is None else self.preprocess0(prev_prev),
                None if self.preprocess1 is None else self.preprocess1(prev),
            ]
        )


class _CifarAuxiliaryHead(nn.Module):
    """A second classifier on an inner feature map; an 8x8 map is pooled to 2x2 as the authors do, others adaptively."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.ReLU(),
            nn.AvgPool2d(5, stride=3, padding=0, count_include_pad=False),
            nn.Conv2d(channels, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False),
            nn.BatchNorm2d(768),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(768, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, num_classes) for a map (B, channels, H, W)."""
        relu, pool, *rest = self.features
        x = pool(relu(x)) if x.shape[-2:] == (8, 8) else F.adaptive_avg_pool2d(relu(x), 2)
        for layer in rest:
            x = layer(x)
        return self.classifier(x.flatten(1))


class _ImageNetAuxiliaryHead(nn.Module):
    """The second classifier of the ImageNet network; the authors leave out its second BatchNorm."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.ReLU(),
            nn.AvgPool2d(5, stride=2, padding=0, count_include_pad=False),
            nn.Conv2d(channels, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(768, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, num_classes) for a map (B, channels, H, W)."""
        relu, pool, *rest = self.features
        x = pool(relu(x)) if x.shape[-2:] == (7, 7) else F.adaptive_avg_pool2d(relu(x), 2)
        for layer in rest:
            x = layer(x)
        return self.classifier(x.flatten(1))


class DartsNetwork(nn.Module):
    """A stack of cells, reductions at one third and two thirds of its depth, where the width doubles.

    Args:
        channels: Channels of a node in the first cells.
        cells: Number of cells.
        num_classes: Number of classes.
        in_channels: Channels of the images.
        auxiliary: Whether a second classifier reads the cell at two thirds of the depth while training.
        imagenet: Whether the stem reduces the image three times (224 x 224), instead of not at all.
        nodes: Number of nodes in a cell of the search stage.
        joined: Number of nodes that the output of a "normal" and of a "reduce" cell joins.
        retrain: Build for retraining (see `DartsCell`).
    """

    def __init__(
        self,
        *,
        channels: int,
        cells: int,
        num_classes: int,
        in_channels: int,
        auxiliary: bool,
        imagenet: bool,
        nodes: int,
        joined: Mapping[str, int],
        retrain: bool,
    ) -> None:
        super().__init__()
        self.space_name = "darts-imagenet" if imagenet else "darts-cifar"
        self.imagenet = imagenet
        if imagenet:
            self.stem0 = nn.Sequential(
                nn.Conv2d(in_channels, channels // 2, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(channels // 2),
                nn.ReLU(),
                nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(channels),
            )
            self.stem1 = nn.Sequential(
                nn.ReLU(),
                nn.Conv2d(channels, channels, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(channels),
            )
            c_prev_prev = c_prev = channels
        else:
            self.stem = nn.Sequential(
                nn.Conv2d(in_channels, 3 * channels, 3, padding=1, bias=False), nn.BatchNorm2d(3 * channels)
            )
            c_prev_prev = c_prev = 3 * channels
        self.auxiliary_at = 2 * cells // 3
        self.cells = nn.ModuleList()
        self.auxiliary_head: nn.Module | None = None
        reduction_prev = imagenet
        for i in range(cells):
            reduction = i in (cells // 3, 2 * cells // 3)
            channels *= 2 if reduction else 1
            cell = DartsCell(
                c_prev_prev,
                c_prev,
                channels,
                reduction=reduction,
                reduction_prev=reduction_prev,
                nodes=nodes,
                retrain=retrain,
            )
            self.cells.append(cell)
            c_prev_prev, c_prev = c_prev, joined["reduce" if reduction else "normal"] * channels
            reduction_prev = reduction
            if auxiliary and i == self.auxiliary_at:
                head = _ImageNetAuxiliaryHead if imagenet else _CifarAuxiliaryHead
                self.auxiliary_head = head(c_prev, num_classes)
        self.classifier = nn.Linear(c_prev, num_classes)

    def after_derive(self) -> None:
        """Drop the cells whose output no later cell and no classifier uses."""
        used = {len(self.cells) - 1}
        if self.auxiliary_head is not None:
            used.add(self.auxiliary_at)
        for i in reversed(range(len(self.cells))):
            if i in used:
                graph = cast(DerivedCell, cast(DartsCell, self.cells[i]).graph)
                used.update(i - 2 + state for state in graph.used_inputs)
        for i in range(len(self.cells)):
            if i not in used:
                self.cells[i] = cast(nn.Module, None)
        if self.imagenet and -1 not in used:
            self.stem1 = cast(Any, None)

    def forward(self, x: Tensor) -> Any:
        """Return logits (B, num_classes); with an auxiliary head in training mode (logits, auxiliary logits).

        Args:
            x: (B, in_channels, H, W).
        """
        if self.imagenet:
            prev_prev = self.stem0(x)
            prev = None if self.stem1 is None else self.stem1(prev_prev)
        else:
            prev_prev = prev = self.stem(x)
        auxiliary_logits = None
        for i, cell in enumerate(self.cells):
            prev_prev, prev = prev, None if cell is None else cell(prev_prev, prev)
            if self.auxiliary_head is not None and self.training and i == self.auxiliary_at:
                auxiliary_logits = self.auxiliary_head(prev)
        logits = self.classifier(torch.flatten(F.adaptive_avg_pool2d(prev, 1), 1))
        return logits if auxiliary_logits is None else (logits, auxiliary_logits)


class _HasChoices(Protocol):
    choices: Mapping[str, Any]


class DartsTemplate(nn.Module):
    """The retraining stage before an architecture is known; `derive` asks it for a network of the right widths."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options

    def sized_for(self, architecture: _HasChoices) -> DartsNetwork:
        """Return the network whose widths suit the nodes that the architecture joins."""
        joined = {}
        for label in ("normal", "reduce"):
            cell = architecture.choices.get(label)
            if not isinstance(cell, Mapping):
                raise ArchitectureError(
                    f"The DARTS space needs the cells 'normal' and 'reduce', but the architecture has "
                    f"{', '.join(map(repr, architecture.choices)) or 'no choices'}."
                )
            joined[label] = len(cell["concat"]) if "concat" in cell else len(cell)
        return DartsNetwork(joined=joined, nodes=1, retrain=True, **self.options)

    def forward(self, x: Tensor) -> Tensor:
        """Raise: there is nothing to run before an architecture is chosen."""
        raise SpaceError(
            "The retraining stage of a space has no layers before an architecture is chosen. "
            "Call archgrad.derive(space, architecture)."
        )


def _build(
    *,
    channels: int,
    cells: int,
    num_classes: int,
    in_channels: int,
    auxiliary: bool,
    imagenet: bool,
    stage: str,
    nodes: int,
) -> nn.Module:
    for name, value in (
        ("channels", channels),
        ("cells", cells),
        ("num_classes", num_classes),
        ("in_channels", in_channels),
        ("nodes", nodes),
    ):
        if value < 1:
            raise OptionError(f"{name} must be at least 1, but got {name}={value}.")
    if stage not in ("search", "retrain"):
        raise OptionError(f"stage must be 'search' or 'retrain', but got stage={stage!r}.")
    if stage == "search" and auxiliary:
        raise OptionError("The search stage has no auxiliary head; give auxiliary=True with stage='retrain'.")
    options: dict[str, Any] = {
        "channels": channels,
        "cells": cells,
        "num_classes": num_classes,
        "in_channels": in_channels,
        "auxiliary": auxiliary,
        "imagenet": imagenet,
    }
    if stage == "retrain":
        return DartsTemplate(**options)
    return DartsNetwork(joined={"normal": nodes, "reduce": nodes}, nodes=nodes, retrain=False, **options)


def darts_cifar(
    channels: int = 16,
    cells: int = 8,
    num_classes: int = 10,
    *,
    in_channels: int = 3,
    auxiliary: bool = False,
    stage: str = "search",
    nodes: int = 4,
) -> nn.Module:
    """Build the paper's space for small images of any size.

    Args:
        channels: Channels of a node in the first cells (paper: 16 to search, 36 to retrain), at least 1.
        cells: Number of cells (paper: 8 to search, 20 to retrain), at least 1.
        num_classes: Number of classes.
        in_channels: Channels of the images.
        auxiliary: Add the auxiliary classifier (retraining only). In training mode the network then returns
            (logits, auxiliary logits).
        stage: "search" for the network with open choices; "retrain" for the one that `derive` fills with an
            architecture: affine BatchNorm, pools without BatchNorm, drop path.
        nodes: Nodes of a cell in the search stage; the retraining stage takes them from the architecture.

    Returns:
        A space; images are (B, in_channels, H, W).

    Raises:
        OptionError: A value outside its range.

    Source: Liu et al. 2019, section 3.1.
    """
    return _build(
        channels=channels,
        cells=cells,
        num_classes=num_classes,
        in_channels=in_channels,
        auxiliary=auxiliary,
        imagenet=False,
        stage=stage,
        nodes=nodes,
    )


def darts_imagenet(
    channels: int = 48,
    cells: int = 14,
    num_classes: int = 1000,
    *,
    in_channels: int = 3,
    auxiliary: bool = False,
    stage: str = "retrain",
    nodes: int = 4,
) -> nn.Module:
    """Build the paper's network for 224 x 224 images: a stem that reduces eightfold, then cells as for CIFAR-10.

    Args and errors are those of `darts_cifar`; `channels` must be even.

    Source: Liu et al. 2019, section 3.3 and appendix A.
    """
    if channels % 2:
        raise OptionError(f"channels must be even for the ImageNet stem, but got channels={channels}.")
    return _build(
        channels=channels,
        cells=cells,
        num_classes=num_classes,
        in_channels=in_channels,
        auxiliary=auxiliary,
        imagenet=True,
        stage=stage,
        nodes=nodes,
    )
