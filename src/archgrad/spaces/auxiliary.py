"""The second classifier of the paper's retraining networks, which reads an inner feature map while training."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["AuxiliaryHead"]


class AuxiliaryHead(nn.Module):
    """Pool a map to 2x2, two convolutions, a linear classifier.

    The authors pool 5x5 with stride 3 from 8x8 (CIFAR-10), and with stride 2 from 7x7 (ImageNet, where they leave out
    the second BatchNorm). Maps of other sizes are pooled adaptively.

    Args:
        channels: Channels of the map.
        num_classes: Number of classes.
        imagenet: Whether the head is that of the network for 224 x 224 images.
    """

    def __init__(self, channels: int, num_classes: int, *, imagenet: bool) -> None:
        super().__init__()
        self.map_size = 7 if imagenet else 8
        self.features = nn.Sequential(
            nn.ReLU(),
            nn.AvgPool2d(5, stride=2 if imagenet else 3, padding=0, count_include_pad=False),
            nn.Conv2d(channels, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False),
            *([] if imagenet else [nn.BatchNorm2d(768)]),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(768, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, num_classes) for a map (B, channels, H, W)."""
        relu, pool, *rest = self.features
        x = pool(relu(x)) if x.shape[-2:] == (self.map_size, self.map_size) else F.adaptive_avg_pool2d(relu(x), 2)
        for layer in rest:
            x = layer(x)
        return self.classifier(x.flatten(1))
