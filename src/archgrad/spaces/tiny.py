"""A space that searches in seconds: layer choices, one of them nested, and an input choice."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from archgrad.choices import InputChoice, LayerChoice, SelectInputs
from archgrad.sizes import check_fits_memory, check_whole

__all__ = ["TinyNetwork", "tiny"]


def _conv(c_in: int, c_out: int, kernel_size: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, kernel_size, padding=kernel_size // 2, bias=False), nn.BatchNorm2d(c_out), nn.ReLU()
    )


class TinyNetwork(nn.Module):
    """Two convolutions of chosen size, the second beside a pool, a chosen join, and a classifier."""

    space_name = "tiny"

    def __init__(self, *, channels: int, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.stem = LayerChoice(
            {"conv3": _conv(in_channels, channels, 3), "conv5": _conv(in_channels, channels, 5)}, label="stem"
        )
        kernel = LayerChoice(
            {"conv1": _conv(channels, channels, 1), "conv3": _conv(channels, channels, 3)}, label="body/kernel"
        )
        self.body: nn.Module | None = LayerChoice(
            {"conv": kernel, "pool": nn.AvgPool2d(3, stride=1, padding=1), "skip": nn.Identity()}, label="body"
        )
        self.join: nn.Module = InputChoice(n_candidates=2, n_chosen=1, label="join")
        self.classifier = nn.Linear(channels, num_classes)

    def after_derive(self) -> None:
        """Drop the second convolution if the join does not take it."""
        if isinstance(self.join, SelectInputs) and 1 not in self.join.chosen:
            self.body = None

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, num_classes) of images (B, in_channels, H, W)."""
        x = self.stem(x)
        x = self.join([x, None if self.body is None else self.body(x)])
        return self.classifier(torch.amax(x, dim=(2, 3)))


def tiny(channels: int = 8, num_classes: int = 10, *, in_channels: int = 1) -> nn.Module:
    """Build a space of 4 choices for small images, to try things on.

    Args:
        channels: Channels of every layer, at least 1.
        num_classes: Number of classes.
        in_channels: Channels of the images.

    Raises:
        OptionError: A value outside its range.
    """
    sizes = {"channels": channels, "num_classes": num_classes, "in_channels": in_channels}
    for name, value in sizes.items():
        check_whole(name, value, least=1)
    check_fits_memory(lambda _: TinyNetwork(**sizes), cells=1, **sizes)
    return TinyNetwork(**sizes)
