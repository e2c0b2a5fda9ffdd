"""The space of NAS-Bench-Macro: eight layers, each a plain connection or one of two inverted residual blocks.

Source: Su et al. 2021, section 5 and table 1 (Sandler et al. 2018 for the block).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archgrad.choices import LayerChoice
from archgrad.errors import OptionError
from archgrad.sizes import check_fits_memory, check_whole

__all__ = ["NasBenchMacroNetwork", "nasbench_macro"]

_STAGES = (2, 3, 3)
"""Layers of each stage; the first of a stage halves the grid and doubles the channels."""
_LAST = 1280
"""Channels before the classifier, where the first ones are 32."""


def _conv(c_in: int, c_out: int, kernel_size: int, *, affine: bool, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(c_in, c_out, kernel_size, stride, kernel_size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out, affine=affine))


class _InvertedResidual(nn.Module):
    """Wider by a pointwise convolution, depthwise, narrower by a pointwise one; the input is added where it fits."""

    def __init__(self, c_in: int, c_out: int, stride: int, kernel_size: int, expansion: int, *, affine: bool) -> None:
        super().__init__()
        hidden = c_in * expansion
        self.expand = _conv(c_in, hidden, 1, affine=affine)
        self.depthwise = _conv(hidden, hidden, kernel_size, affine=affine, stride=stride, groups=hidden)
        self.project = _conv(hidden, c_out, 1, affine=affine)
        self.residual = c_in == c_out and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(F.relu(self.depthwise(F.relu(self.expand(x)))))
        return x + y if self.residual else y


class NasBenchMacroNetwork(nn.Module):
    """Stem, eight layers of choice in three stages, a pointwise convolution, classifier."""

    space_name = "nasbench-macro"

    def __init__(self, *, channels: int, num_classes: int, in_channels: int, affine: bool) -> None:
        super().__init__()
        last = channels * _LAST // 32
        self.stem = _conv(in_channels, channels, 3, affine=True)
        layers: list[nn.Module] = []
        for count in _STAGES:
            for place in range(count):
                stride = 2 if place == 0 else 1
                layers.append(_layer(channels, channels * stride, stride, affine, f"layer{len(layers)}"))
                channels *= stride
        self.layers = nn.Sequential(*layers)
        self.last = _conv(channels, last, 1, affine=True)
        self.classifier = nn.Linear(last, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, num_classes) of images (B, in_channels, H, W)."""
        x = F.relu(self.last(self.layers(F.relu(self.stem(x)))))
        return self.classifier(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


def _layer(c_in: int, c_out: int, stride: int, affine: bool, label: str) -> LayerChoice:
    plain = nn.Identity() if stride == 1 else _conv(c_in, c_out, 1, affine=affine, stride=stride)
    return LayerChoice(
        {
            "identity": plain,
            "mb3_3x3": _InvertedResidual(c_in, c_out, stride, 3, 3, affine=affine),
            "mb6_5x5": _InvertedResidual(c_in, c_out, stride, 5, 6, affine=affine),
        },
        label=label,
    )


def nasbench_macro(
    channels: int = 32, num_classes: int = 10, *, in_channels: int = 3, stage: str = "search"
) -> nn.Module:
    """Build the NAS-Bench-Macro space for small images, at least 8x8.

    Args:
        channels: Channels of the stem, at least 1, and doubled in each of three stages; 32 in the benchmark.
        num_classes: Number of classes.
        in_channels: Channels of the images.
        stage: "search" (BatchNorm in the candidates without affine part) or "retrain" (with).

    Returns:
        A space of eight choices "layer0" to "layer7", 6,561 networks.

    Raises:
        OptionError: A value outside its range.
    """
    sizes = {"channels": channels, "num_classes": num_classes, "in_channels": in_channels}
    for name, value in sizes.items():
        check_whole(name, value, least=1)
    if stage not in ("search", "retrain"):
        raise OptionError(f"stage must be 'search' or 'retrain', but got stage={stage!r}.")
    affine = stage == "retrain"
    check_fits_memory(lambda _: NasBenchMacroNetwork(affine=affine, **sizes), cells=1, **sizes)
    return NasBenchMacroNetwork(affine=affine, **sizes)
