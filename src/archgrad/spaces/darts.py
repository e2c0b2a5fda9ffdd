"""The convolutional space of DARTS: its search network and its retraining networks for CIFAR-10 and ImageNet.

Source: Liu et al. 2019, sections 2.1, 3.1 and appendix A.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from archgrad.checks import check_word
from archgrad.decision import joined_nodes
from archgrad.errors import ArchitectureError, OptionError, SpaceError
from archgrad.operations import DARTS_OPERATIONS, DARTS_PRIMITIVES, ROBUST_PRIMITIVES, Primitives
from archgrad.sizes import check_divides, check_fits_memory, check_whole
from archgrad.spaces.darts_network import DartsNetwork

__all__ = ["DartsTemplate", "darts_cifar", "darts_imagenet"]

Operations = str | Primitives
_CELLS = ("normal", "reduce")


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
        for label in _CELLS:
            cell = architecture.choices.get(label)
            if not isinstance(cell, Mapping):
                raise ArchitectureError(
                    f"The DARTS space needs the cells 'normal' and 'reduce', but the architecture has "
                    f"{', '.join(map(repr, architecture.choices)) or 'no choices'}."
                )
            joined[label] = len(joined_nodes(cell))
        return _sized(joined=joined, nodes=1, retrain=True, **self.options)

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
    partial_channels: int,
    operations: Operations,
) -> nn.Module:
    for name, value in (
        ("channels", channels),
        ("cells", cells),
        ("num_classes", num_classes),
        ("in_channels", in_channels),
        ("nodes", nodes),
        ("partial_channels", partial_channels),
    ):
        check_whole(name, value, least=1)
    if stage not in ("search", "retrain"):
        raise OptionError(f"stage must be 'search' or 'retrain', but got stage={stage!r}.")
    if stage == "search" and auxiliary:
        raise OptionError("The search stage has no auxiliary head; give auxiliary=True with stage='retrain'.")
    check_divides(partial_channels, channels)
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
    joined = dict.fromkeys(_CELLS, nodes)
    options |= {"partial_channels": partial_channels, "operations": _names_of(operations, nodes)}
    return _sized(joined=joined, nodes=nodes, retrain=False, **options)


def _names_of(operations: Operations, nodes: int) -> dict[str, Sequence[Sequence[str]]]:
    """Return the names of the candidates of every edge of each cell, that `operations` of a space stands for."""
    lists: dict[str, Primitives] = {"darts": DARTS_PRIMITIVES, **ROBUST_PRIMITIVES}
    n_edges = sum(range(2, 2 + nodes))
    if isinstance(operations, str):
        check_word("operations", operations, lists)
        operations = lists[operations]
    if not isinstance(operations, Mapping):
        operations = dict.fromkeys(_CELLS, [operations] * n_edges)
    if set(operations) != set(_CELLS) or any(len(operations[label]) != n_edges for label in _CELLS):
        given = {label: f"{len(edges)} edges" for label, edges in operations.items()}
        raise OptionError(
            f"operations by edge must be a list for each of the {n_edges} edges of cells of {nodes} nodes, of 'normal' "
            f"and of 'reduce', but got operations={given}."
        )
    for names in (names for edges in operations.values() for names in edges):
        if isinstance(names, str):
            raise OptionError(f"operations by edge must be a list for each edge, but got {names!r} in one's place.")
        for name in names:
            check_word("operations", name, DARTS_OPERATIONS)
    return {label: [list(dict.fromkeys(names)) for names in edges] for label, edges in operations.items()}


def _sized(*, cells: int, joined: dict[str, int], **options: Any) -> DartsNetwork:
    """Build the network if this machine's memory can hold it."""

    def build(number: int) -> DartsNetwork:
        return DartsNetwork(cells=number, joined=joined, **options)

    sizes = {name: options[name] for name in ("channels", "num_classes", "in_channels")}
    check_fits_memory(build, cells=cells, joined=max(joined.values()), **sizes)
    return build(cells)


def darts_cifar(
    channels: int = 16,
    cells: int = 8,
    num_classes: int = 10,
    *,
    in_channels: int = 3,
    auxiliary: bool = False,
    stage: str = "search",
    nodes: int = 4,
    partial_channels: int = 1,
    operations: Operations = "darts",
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
        partial_channels: In the search stage, one of so many equal parts of the channels goes through the operations of
            an edge (see `Cell`; PC-DARTS: 4, ImageNet 2); it divides `channels`. Retraining is with all channels.
        operations: Candidates of the search stage, names of `archgrad.operations.DARTS_OPERATIONS`; or "darts" for the
            paper's, "s1" to "s4" for those of RobustDARTS (Zela et al. 2020, section 4). Of each edge its own as
            {"normal": lists, "reduce": lists}, a list for each edge, node by node and then by source; "s1" is such.

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
        partial_channels=partial_channels,
        operations=operations,
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
    partial_channels: int = 1,
    operations: Operations = "darts",
) -> nn.Module:
    """Build the paper's network for 224 x 224 images: a stem that reduces eightfold, then cells as for CIFAR-10.

    Args and errors are those of `darts_cifar`; `channels` must be even.

    Source: Liu et al. 2019, section 3.3 and appendix A.
    """
    check_whole("channels", channels, least=1)
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
        partial_channels=partial_channels,
        operations=operations,
    )
