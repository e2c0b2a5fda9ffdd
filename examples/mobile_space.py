"""A space of one's own: a small image network of inverted residual blocks (Sandler et al. 2018, FBNet's choices).

    archgrad search --space examples/mobile_space.py:MobileSpace --data cifar10 --epochs 10 --out runs/mobile

Nothing here is archgrad's but the choices: which kernel and which expansion every block has, or whether it is left out.
"""

from __future__ import annotations

import torch
from torch import nn

import archgrad as ag


class InvertedResidual(nn.Module):
    """Expand by a pointwise convolution, convolve channel by channel, project back; add the input if it fits."""

    def __init__(self, c_in: int, c_out: int, kernel: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = c_in * expansion
        self.layers = nn.Sequential(
            nn.Conv2d(c_in, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, kernel, stride=stride, padding=kernel // 2, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, c_out, 1, bias=False),
            nn.BatchNorm2d(c_out),
        )
        self.is_residual = stride == 1 and c_in == c_out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (B, c_out, H / stride, W / stride)."""
        return x + self.layers(x) if self.is_residual else self.layers(x)


class MobileSpace(nn.Module):
    """A stem, `depth` blocks at each of three resolutions, and a classifier.

    Args:
        channels: Of the first blocks; they double with every halving of the resolution.
        depth: Blocks at each resolution; the first of them cannot be left out.
        num_classes: Classes of the data.
        in_channels: Channels of the images.
    """

    def __init__(self, channels: int = 16, depth: int = 3, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
        )
        blocks: list[nn.Module] = []
        width = channels
        for level in range(3):
            for k in range(depth):
                out, stride = channels * 2**level, 2 if level and k == 0 else 1
                candidates: dict[str, nn.Module] = {
                    f"{kernel}x{kernel}, {expansion} wide": InvertedResidual(width, out, kernel, expansion, stride)
                    for kernel in (3, 5, 7)
                    for expansion in (3, 6)
                }
                if k:
                    candidates["none"] = nn.Identity()
                blocks.append(ag.LayerChoice(candidates, label=f"block{len(blocks)}"))
                width = out
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (B, num_classes)."""
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))
