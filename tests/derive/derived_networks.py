"""What the tests of derived networks ask of any network."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor, nn

import archgrad as ag
from archgrad.choices import Choice

CELL_OPERATIONS = ("max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "dil_conv_5x5", "conv_7x1_1x7")


def images(size: int | tuple[int, int] = 8, *, channels: int = 3, batch: int = 2, seed: int = 0) -> Tensor:
    height, width = (size, size) if isinstance(size, int) else size
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(seed))


def parameters_without_gradient(network: nn.Module, x: Tensor) -> list[str]:
    network.train().zero_grad()
    outputs = network(x)
    parts = outputs if isinstance(outputs, tuple) else (outputs,)
    sum(part.square().sum() for part in parts).backward()
    return [name for name, p in network.named_parameters() if p.grad is None]


def open_choices(network: nn.Module) -> list[str]:
    return [name for name, module in network.named_modules() if isinstance(module, Choice)]


def random_cells(seed: int) -> ag.Architecture:
    """Cells that no search would give: any number of nodes, one or two edges each, any nodes joined."""
    draw = random.Random(seed)
    cells: dict[str, Any] = {}
    for label in ("normal", "reduce"):
        n_nodes = draw.randint(1, 5)
        cell: dict[str, Any] = {}
        for node in range(2, 2 + n_nodes):
            cell[str(node)] = [[draw.choice(CELL_OPERATIONS), draw.randrange(node)] for _ in range(draw.randint(1, 2))]
        cell["concat"] = sorted(draw.sample(range(2, 2 + n_nodes), draw.randint(1, n_nodes)))
        cells[label] = cell
    return ag.Architecture(cells)
