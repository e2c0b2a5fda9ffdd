"""A space of small image networks: inverted residual blocks of open kernel, expansion, width, depth.

Source: Sandler et al. 2018 (the block), Howard et al. 2019 (squeeze-excite in it), Cai et al. 2020 (what is open).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from archgrad import nn as open_nn
from archgrad.checks import check_real
from archgrad.choices import LayerChoice
from archgrad.errors import OptionError
from archgrad.repeat import Repeat
from archgrad.sizes import check_fits_memory, check_whole
from archgrad.values import Number, Value, ValueChoice

__all__ = ["InvertedResidual", "MobileNetwork", "SqueezeExcite", "mobile"]


class SqueezeExcite(nn.Module):
    """Weigh each channel by a gate that sees the means of all channels (Hu et al. 2018).

    Args:
        channels: Of the input, perhaps open; a quarter of them is between the two layers of the gate.
    """

    def __init__(self, channels: Value | Number) -> None:
        super().__init__()
        inner = (channels + 3) // 4
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            open_nn.Conv2d(channels, inner, 1),
            nn.ReLU(),
            open_nn.Conv2d(inner, channels, 1),
            nn.Hardsigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, channels, H, W)."""
        return x * self.gate(x)


class InvertedResidual(nn.Module):
    """Wider by a pointwise convolution, depthwise, narrower by a pointwise one; the input is added where it fits.

    Args:
        c_in: Channels of the input, perhaps open.
        c_out: Channels of the output, perhaps open.
        stride: Of the depthwise convolution.
        kernel: Of the depthwise convolution, odd, perhaps open.
        expansion: How many times as many channels as `c_in` it has, perhaps open.
        label: What the choice of squeeze-excite is called.
    """

    def __init__(
        self,
        c_in: Value | Number,
        c_out: Value | Number,
        stride: int,
        kernel: ValueChoice,
        expansion: ValueChoice,
        label: str,
    ) -> None:
        super().__init__()
        hidden = c_in * expansion
        self.layers = nn.Sequential(
            *_conv(c_in, hidden, 1),
            nn.ReLU(),
            *_conv(hidden, hidden, kernel, stride, groups=hidden),
            nn.ReLU(),
            LayerChoice({"without": nn.Identity(), "with": SqueezeExcite(hidden)}, label),
            *_conv(hidden, c_out, 1),
        )
        self.is_residual = c_in is c_out and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, c_out, ceil(H / stride), ceil(W / stride))."""
        return x + self.layers(x) if self.is_residual else self.layers(x)


def _conv(
    c_in: Value | Number, c_out: Value | Number, kernel: ValueChoice | int, stride: int = 1, groups: Value | Number = 1
) -> tuple[nn.Module, nn.Module]:
    conv = open_nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return conv, open_nn.BatchNorm2d(c_out)


class MobileNetwork(nn.Module):
    """A stem, stages of inverted residual blocks, and a classifier."""

    space_name = "mobile"

    def __init__(
        self,
        *,
        width: int,
        num_classes: int,
        in_channels: int,
        stages: int,
        depth: int,
        stem_stride: int,
        kernels: Sequence[int],
        expansions: Sequence[int],
        widths: Sequence[float],
    ) -> None:
        super().__init__()
        channels: Value | int = width
        self.stem = nn.Sequential(*_conv(in_channels, width, 3, stem_stride), nn.ReLU())
        parts: list[nn.Module] = []
        for stage in range(stages):
            name, before = f"stage{stage}", channels
            multiples = (max(1, round(multiple * width * 2**stage)) for multiple in widths)
            channels = ValueChoice(list(dict.fromkeys(multiples)), f"{name}/width")

            def block(
                number: int, c_in: Value | int = before, c_out: Value = channels, name: str = name, stage: int = stage
            ) -> nn.Module:
                own, first = f"{name}/block{number}", number == 0
                return InvertedResidual(
                    c_in if first else c_out,
                    c_out,
                    2 if first and stage > 0 else 1,
                    ValueChoice(kernels, f"{own}/kernel"),
                    ValueChoice(expansions, f"{own}/expansion"),
                    f"{own}/squeeze_excite",
                )

            parts.append(Repeat(block, range(1, depth + 1), f"{name}/depth"))
        self.stages = nn.Sequential(*parts)
        self.classifier = open_nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, num_classes) of images (B, in_channels, H, W)."""
        return self.classifier(self.stages(self.stem(x)).mean((2, 3)))


def mobile(
    width: int = 16,
    num_classes: int = 10,
    *,
    in_channels: int = 3,
    stages: int = 3,
    depth: int = 3,
    stem_stride: int = 1,
    kernels: Sequence[int] = (3, 5, 7),
    expansions: Sequence[int] = (3, 6),
    widths: Sequence[float] = (0.5, 0.75, 1.0),
) -> nn.Module:
    """Build a space of inverted residual networks for images, whose sizes are searched.

    Open are the width and the depth of each stage; the kernel, the expansion and the squeeze-excite of each block.

    Args:
        width: Channels of the stem, and of the first stage at its widest, at least 1; doubled with each further stage.
        num_classes: Number of classes.
        in_channels: Channels of the images.
        stages: Stages, at least 1; each but the first halves height and width.
        depth: Most blocks of a stage, at least 1; the fewest are 1.
        stem_stride: Of the first convolution: 1 for small images, 2 for those of 100 pixels and more.
        kernels: Of the depthwise convolutions, odd.
        expansions: How many times as many channels as its input a block has inside.
        widths: Of a stage, as shares of its widest.

    Raises:
        OptionError: A size outside its range.
        SpaceError: A list that holds no different numbers of its kind.
    """
    sizes = {"width": width, "num_classes": num_classes, "in_channels": in_channels, "stages": stages}
    sizes |= {"depth": depth, "stem_stride": stem_stride}
    for name, value in sizes.items():
        check_whole(name, value, least=1)
    for share in widths:
        check_real("widths", share, above=0)
    for kernel in kernels:
        check_whole("kernels", kernel, least=1)
        if kernel % 2 == 0:
            raise OptionError(f"kernels must be odd, so that blocks keep height and width, but got kernels={kernels}.")

    def build(_: int = 1) -> nn.Module:
        return MobileNetwork(**sizes, kernels=kernels, expansions=expansions, widths=widths)

    check_fits_memory(build, cells=1, channels=width * 2 ** min(stages, 32), **sizes)
    return build()
