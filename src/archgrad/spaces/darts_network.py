"""The network of DARTS, to search and to retrain: a stack of cells between a stem and a classifier.

Source: Liu et al. 2019, sections 2.1, 3.1 and appendix A.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archgrad.cell import BuildCandidate, Cell
from archgrad.derived_cell import DerivedCell
from archgrad.operations import (
    DARTS_OPERATIONS,
    DropPath,
    FactorizedReduce,
    PoolBN,
    ReLUConvBN,
)
from archgrad.spaces.auxiliary import AuxiliaryHead

__all__ = ["DartsCell", "DartsNetwork"]


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
        partial_channels: See `Cell`; of the search stage.
        operations: Names of the candidates of each edge of the search stage, node by node and then by source.
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
        partial_channels: int,
        operations: Sequence[Sequence[str]],
    ) -> None:
        super().__init__()
        self.preprocess0: nn.Module | None = (
            FactorizedReduce(c_prev_prev, channels, affine=retrain)
            if reduction_prev
            else ReLUConvBN(c_prev_prev, channels, 1, affine=retrain)
        )
        self.preprocess1: nn.Module | None = ReLUConvBN(c_prev, channels, 1, affine=retrain)

        def build(name: str, source: int, node: int, parts: int = 1) -> nn.Module:
            stride = 2 if reduction and source < 2 else 1
            if retrain:
                return DARTS_OPERATIONS[name](channels, stride, True)
            return _search_candidate(name, channels // parts, stride)

        names = tuple(DARTS_OPERATIONS) if retrain else dict.fromkeys(name for edge in operations for name in edge)
        candidates: dict[str, BuildCandidate] = {name: partial(build, name) for name in names}
        pairs = ((source, node) for node in range(2, 2 + nodes) for source in range(node))
        self.graph: nn.Module = Cell(
            nodes,
            candidates,
            edge_candidates=None if retrain else dict(zip(pairs, operations, strict=True)),
            lazy=retrain,
            drop_path=DropPath() if retrain else None,
            partial_channels=1 if retrain else partial_channels,
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
        partial_channels: See `Cell`; of the search stage.
        operations: Of the search stage: of a "normal" and of a "reduce" cell, the names of the candidates of each edge.
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
        partial_channels: int = 1,
        operations: Mapping[str, Sequence[Sequence[str]]] | None = None,
    ) -> None:
        super().__init__()
        self.space_name = "darts-imagenet" if imagenet else "darts-cifar"
        self.optional_labels = ("normal", "reduce")  # a network of one or two cells has no normal cell
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
            label = "reduce" if reduction else "normal"
            channels *= 2 if reduction else 1
            cell = DartsCell(
                c_prev_prev,
                c_prev,
                channels,
                reduction=reduction,
                reduction_prev=reduction_prev,
                nodes=nodes,
                retrain=retrain,
                partial_channels=partial_channels,
                operations=() if operations is None else operations[label],
            )
            self.cells.append(cell)
            c_prev_prev, c_prev = c_prev, joined[label] * channels
            reduction_prev = reduction
            if auxiliary and i == self.auxiliary_at:
                self.auxiliary_head = AuxiliaryHead(c_prev, num_classes, imagenet=imagenet)
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
