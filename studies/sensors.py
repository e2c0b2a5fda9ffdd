"""Windows of a vibration sensor, made by formulas, and a space that fits them as well as small images.

Three classes of motors: one that is well, one out of balance (its own speed is loud), one with a worn bearing (short
bursts, several a turn). Each motor has its own speed and noise; windows are brought to a standard deviation of 1. The
motors of the test set are others than those of the training set, so that a network cannot know them.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset

import archgrad as ag

LENGTH, RATE = 256, 2000.0  # samples of a window; samples a second


def windows(motors: int = 20, test_motors: int = 20, each: int = 12) -> ag.Data:
    """Return windows (1, LENGTH) of so many motors a class, `each` of every motor; always the same."""
    random = np.random.default_rng(0)
    train, test = _record(motors, each, random), _record(test_motors, each, random)
    return ag.Data.from_datasets(train, test)


def _record(motors: int, each: int, random: np.random.Generator) -> TensorDataset:
    x, y = [], []
    seconds = np.arange(LENGTH) / RATE
    for kind in range(3):
        for _ in range(motors):
            speed, noise = random.uniform(20, 40), random.uniform(0.8, 1.6)
            for _ in range(each):
                turns = speed * (seconds + random.uniform(0, 1))
                signal = (1.2 if kind == 1 else 0.6) * np.sin(2 * np.pi * turns) + noise * random.normal(size=LENGTH)
                if kind == 2:
                    since = (3.6 * turns % 1) / (3.6 * speed)  # seconds since the last of 3.6 bursts a turn
                    signal += 2.5 * np.exp(-since / 0.002) * np.sin(2 * np.pi * 400 * since)
                x.append(signal[None] / signal.std())
                y.append(kind)
    return TensorDataset(torch.tensor(np.array(x), dtype=torch.float32), torch.tensor(y))


class Layers(nn.Module):
    """Four layers of chosen convolutions, over images (B, C, H, W) or windows (B, C, time)."""

    def __init__(self, num_classes: int, in_channels: int = 0, channels: int = 12) -> None:
        super().__init__()
        images = in_channels > 0
        conv, norm, pool = (
            (nn.Conv2d, nn.BatchNorm2d, nn.AvgPool2d) if images else (nn.Conv1d, nn.BatchNorm1d, nn.AvgPool1d)
        )
        shrink, whole = (
            (nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1)) if images else (nn.MaxPool1d(4), nn.AdaptiveAvgPool1d(1))
        )

        def layer(label: str) -> nn.Module:
            candidates = {
                "skip": nn.Identity(),
                "average": pool(3, 1, 1),
                "3 long": conv(channels, channels, 3, padding=1),
                "5 long": conv(channels, channels, 5, padding=2),
                "3 of 5": conv(channels, channels, 3, padding=2, dilation=2),
            }
            return nn.Sequential(ag.LayerChoice(candidates, label=label), norm(channels), nn.ReLU())

        self.body = nn.Sequential(
            conv(in_channels or 1, channels, 3, padding=1), norm(channels), nn.ReLU(),
            layer("first"), layer("second"), shrink, layer("third"), layer("fourth"), whole,
        )  # fmt: skip
        self.head = nn.Linear(channels, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (B, num_classes)."""
        return self.head(self.body(x).flatten(1))
