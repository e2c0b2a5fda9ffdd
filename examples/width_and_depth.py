"""How wide, how deep, which kernel: a network of inverted residual blocks whose numbers are searched.

    python examples/width_and_depth.py
    archgrad search --space examples/width_and_depth.py:OpenNet --data digits --epochs 10 --out runs/width

Every number that is open is a `ValueChoice`, given to the layers in the place of the number; `Repeat` leaves the depth
open. What is found is a file of numbers, and the derived network is of plain `torch.nn` layers.
"""

from __future__ import annotations

import argparse

import torch
from torch import nn

import archgrad as ag


class Block(nn.Module):
    """Expand, convolve channel by channel, project back, and add the input.

    Args:
        width: Channels, perhaps open.
        kernel: Of the middle convolution.
        expansion: How many times as many channels the middle convolution has.
    """

    def __init__(self, width: ag.ValueChoice, kernel: ag.ValueChoice, expansion: ag.ValueChoice) -> None:
        super().__init__()
        hidden = width * expansion
        self.layers = nn.Sequential(
            ag.nn.Conv2d(width, hidden, 1, bias=False),
            ag.nn.BatchNorm2d(hidden),
            nn.ReLU(),
            ag.nn.Conv2d(hidden, hidden, kernel, padding=kernel // 2, groups=hidden, bias=False),
            ag.nn.BatchNorm2d(hidden),
            nn.ReLU(),
            ag.nn.Conv2d(hidden, width, 1, bias=False),
            ag.nn.BatchNorm2d(width),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (B, width, H, W)."""
        return x + self.layers(x)


class OpenNet(nn.Module):
    """A stem, one to `depth` blocks, and a classifier.

    Args:
        in_channels: Channels of the images.
        num_classes: Classes of the data.
        depth: Most blocks.
    """

    def __init__(self, in_channels: int = 1, num_classes: int = 10, depth: int = 3) -> None:
        super().__init__()
        width = ag.ValueChoice([4, 8, 16], label="width")
        kernel = ag.ValueChoice([3, 5], label="kernel")
        self.stem = ag.nn.Conv2d(in_channels, width, 3, padding=1)
        self.blocks = ag.Repeat(
            lambda number: Block(width, kernel, ag.ValueChoice([1, 2, 3], label=f"block{number}/expansion")),
            range(1, depth + 1),
            label="depth",
        )
        self.head = ag.nn.Linear(width, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (B, num_classes)."""
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def main() -> None:
    """Search, derive, retrain."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=5, help="of the search and of the retraining")
    parser.add_argument("--out", default="runs/width", help="folder of the runs")
    options = parser.parse_args()

    space = OpenNet()
    result = ag.search(
        space, "digits", epochs=options.epochs, alphas_learning_rate=0.02, run_dir=f"{options.out}/search", quiet=True
    )
    for label, value in result.architecture.choices.items():
        print(f"{label}: {value}")
    network = ag.derive(space, result.architecture)
    print(f"{ag.cost.count_parameters(network):,} parameters")
    trained = ag.retrain(network, "digits", epochs=options.epochs, run_dir=f"{options.out}/retrain", quiet=True)
    print(f"Test accuracy: {trained.test_accuracy:.1%}")


if __name__ == "__main__":
    main()
