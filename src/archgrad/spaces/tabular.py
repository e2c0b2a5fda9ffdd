"""A space of residual multilayer perceptrons for rows of tables: how wide, how deep, how much dropout.

Source: Gorishniy et al. 2021, section 3.2 (the block of their ResNet).
"""

from __future__ import annotations

from torch import Tensor, nn

from archgrad import nn as open_nn
from archgrad.choices import LayerChoice
from archgrad.repeat import Repeat
from archgrad.sizes import check_fits_memory, check_whole
from archgrad.values import Value, ValueChoice

__all__ = ["TabularNetwork", "tabular"]

_RATIOS = (1, 2, 4)
_DROPOUTS = (0.0, 0.2, 0.5)


def _activation() -> LayerChoice:
    return LayerChoice({"relu": nn.ReLU(), "silu": nn.SiLU(), "gelu": nn.GELU()}, "activation")


class _Block(nn.Module):
    """x + dropout(linear(dropout(activation(linear(BatchNorm(x))))))."""

    def __init__(self, width: Value, label: str) -> None:
        super().__init__()
        hidden = width * ValueChoice(_RATIOS, f"{label}/ratio")
        dropout = ValueChoice(_DROPOUTS, "dropout")
        self.layers = nn.Sequential(
            open_nn.BatchNorm1d(width),
            open_nn.Linear(width, hidden),
            _activation(),
            open_nn.Dropout(dropout),
            open_nn.Linear(hidden, width),
            open_nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class TabularNetwork(nn.Module):
    """A linear layer to the width, residual blocks, and a linear layer to the outputs."""

    space_name = "tabular"

    def __init__(self, *, in_features: int, num_classes: int, width: int, depth: int) -> None:
        super().__init__()
        open_width = ValueChoice(sorted({max(1, width // 4), max(1, width // 2), width}), "width")
        self.first = open_nn.Linear(in_features, open_width)
        self.blocks = Repeat(lambda number: _Block(open_width, f"block{number}"), range(1, depth + 1), "depth")
        self.last = nn.Sequential(
            open_nn.BatchNorm1d(open_width), _activation(), open_nn.Linear(open_width, num_classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs (B, num_classes) of vectors (B, in_features)."""
        return self.last(self.blocks(self.first(x)))


def tabular(in_features: int = 8, num_classes: int = 1, *, width: int = 128, depth: int = 4) -> nn.Module:
    """Build a space of residual multilayer perceptrons for the rows of a table, whose sizes are searched.

    Open are the width, the depth, the activation and the dropout of all blocks, and how wide each block is inside.

    Args:
        in_features: Length of the vectors, at least 1.
        num_classes: Number of outputs: classes, or values that are predicted.
        width: At most, at least 1; a half and a quarter of it compete. Blocks are one, two or four times as wide.
        depth: Most blocks, at least 1; the fewest are 1.

    Raises:
        OptionError: A value outside its range.
    """
    sizes = {"in_features": in_features, "num_classes": num_classes, "width": width, "depth": depth}
    for name, value in sizes.items():
        check_whole(name, value, least=1)
    check_fits_memory(lambda _: TabularNetwork(**sizes), cells=1, channels=width, in_channels=in_features, **sizes)
    return TabularNetwork(**sizes)
