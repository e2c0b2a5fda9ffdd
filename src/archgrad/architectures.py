"""Published results of searches in the paper's spaces, and the baselines that it compares with.

Source: Zoph et al. 2018; Real et al. 2018; Liu et al. 2019; Xu et al. 2020, and the genotypes released with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from archgrad.architecture import PAPER_RNN_SPACE, PAPER_SPACE, Architecture

__all__ = ["DARTS_RNN", "DARTS_V1", "DARTS_V2", "AmoebaNet", "NASNet", "PC_DARTS_cifar"]


def _cell(*nodes: str, joined: Sequence[int] | None = None, n_inputs: int = 2) -> dict[str, list[Any]]:
    """Return a cell's decision; a node is written "operation@source operation@source"."""
    cell: dict[str, list[Any]] = {}
    for number, node in enumerate(nodes, start=n_inputs):
        pairs = [edge.split("@") for edge in node.split()]
        cell[str(number)] = [[operation, int(source)] for operation, source in pairs]
    if joined is not None:
        cell["concat"] = list(joined)
    return cell


def _published(normal: dict[str, list[Any]], reduce: dict[str, list[Any]], paper: str) -> Architecture:
    return Architecture({"normal": normal, "reduce": reduce}, space=PAPER_SPACE, provenance={"paper": paper})


NASNet = _published(
    _cell(
        "sep_conv_5x5@1 sep_conv_3x3@0",
        "sep_conv_5x5@0 sep_conv_3x3@0",
        "avg_pool_3x3@1 skip_connect@0",
        "avg_pool_3x3@0 avg_pool_3x3@0",
        "sep_conv_3x3@1 skip_connect@1",
    ),
    _cell(
        "sep_conv_5x5@1 sep_conv_7x7@0",
        "max_pool_3x3@1 sep_conv_7x7@0",
        "avg_pool_3x3@1 sep_conv_5x5@0",
        "skip_connect@3 avg_pool_3x3@2",
        "sep_conv_3x3@2 max_pool_3x3@1",
        joined=(4, 5, 6),
    ),
    "Zoph et al. 2018, Learning Transferable Architectures for Scalable Image Recognition",
)
"""NASNet-A, found by reinforcement learning; uses sep_conv_7x7, which the paper's search space does not have."""

AmoebaNet = _published(
    _cell(
        "avg_pool_3x3@0 max_pool_3x3@1",
        "sep_conv_3x3@0 sep_conv_5x5@2",
        "sep_conv_3x3@0 avg_pool_3x3@3",
        "sep_conv_3x3@1 skip_connect@1",
        "skip_connect@0 avg_pool_3x3@1",
        joined=(4, 5, 6),
    ),
    _cell(
        "avg_pool_3x3@0 sep_conv_3x3@1",
        "max_pool_3x3@0 sep_conv_7x7@2",
        "sep_conv_7x7@0 avg_pool_3x3@1",
        "max_pool_3x3@0 max_pool_3x3@1",
        "conv_7x1_1x7@0 sep_conv_3x3@5",
        joined=(3, 4, 6),
    ),
    "Real et al. 2018, Regularized Evolution for Image Classifier Architecture Search",
)
"""AmoebaNet-A, found by evolution; uses sep_conv_7x7 and conv_7x1_1x7, which the paper's search space does not have."""

DARTS_V1 = _published(
    _cell(
        "sep_conv_3x3@1 sep_conv_3x3@0",
        "skip_connect@0 sep_conv_3x3@1",
        "skip_connect@0 sep_conv_3x3@1",
        "sep_conv_3x3@0 skip_connect@2",
    ),
    _cell(
        "max_pool_3x3@0 max_pool_3x3@1",
        "skip_connect@2 max_pool_3x3@0",
        "max_pool_3x3@0 skip_connect@2",
        "skip_connect@2 avg_pool_3x3@0",
    ),
    "Liu et al. 2019, DARTS: Differentiable Architecture Search",
)
"""Found by first-order DARTS."""

DARTS_V2 = _published(
    _cell(
        "sep_conv_3x3@0 sep_conv_3x3@1",
        "sep_conv_3x3@0 sep_conv_3x3@1",
        "sep_conv_3x3@1 skip_connect@0",
        "skip_connect@0 dil_conv_3x3@2",
    ),
    _cell(
        "max_pool_3x3@0 max_pool_3x3@1",
        "skip_connect@2 max_pool_3x3@1",
        "max_pool_3x3@0 skip_connect@2",
        "skip_connect@2 max_pool_3x3@1",
    ),
    "Liu et al. 2019, DARTS: Differentiable Architecture Search",
)
"""Found by second-order DARTS."""

PC_DARTS_cifar = _published(
    _cell(
        "sep_conv_3x3@1 skip_connect@0",
        "sep_conv_3x3@0 dil_conv_3x3@1",
        "sep_conv_5x5@0 sep_conv_3x3@1",
        "avg_pool_3x3@0 dil_conv_3x3@1",
    ),
    _cell(
        "sep_conv_5x5@1 max_pool_3x3@0",
        "sep_conv_5x5@1 sep_conv_5x5@2",
        "sep_conv_3x3@0 sep_conv_3x3@3",
        "sep_conv_3x3@1 sep_conv_3x3@2",
    ),
    "Xu et al. 2020, PC-DARTS: Partial Channel Connections for Memory-Efficient Architecture Search",
)
"""Found by PC-DARTS on CIFAR-10."""

DARTS_RNN = Architecture(
    {
        "recurrent": _cell(
            *("relu@0", "relu@1", "tanh@2", "relu@3", "relu@4", "identity@1", "relu@5", "relu@1"), n_inputs=1
        )
    },
    space=PAPER_RNN_SPACE,
    provenance={"paper": DARTS_V2.provenance["paper"]},
)
"""The recurrent cell found on Penn Treebank, as the authors' code has it."""
