"""A space of one-dimensional convolutional networks for windows of sensors, small enough for microcontrollers.

Source: Zhang et al. 2018 (depthwise separable networks in three sizes, for memories of microcontrollers).
"""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor, nn

from archgrad import nn as open_nn
from archgrad.checks import check_word
from archgrad.repeat import Repeat
from archgrad.sizes import check_fits_memory, check_whole
from archgrad.values import Number, Value, ValueChoice

__all__ = ["Size", "TimeSeriesNetwork", "timeseries"]

Size = Literal["s", "m", "l"]
_CHANNELS: dict[str, int] = {"s": 16, "m": 32, "l": 64}
_DEPTHS: dict[str, int] = {"s": 2, "m": 3, "l": 4}
_KERNELS = (3, 5, 9)


class _Separable(nn.Module):
    """Depthwise and pointwise convolution over time, each with BatchNorm and ReLU; the input is added where it fits."""

    def __init__(self, c_in: Value | Number, c_out: Value | Number, stride: int, kernel: ValueChoice) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            open_nn.Conv1d(c_in, c_in, kernel, stride, kernel // 2, groups=c_in, bias=False),
            open_nn.BatchNorm1d(c_in),
            nn.ReLU(),
            open_nn.Conv1d(c_in, c_out, 1, bias=False),
            open_nn.BatchNorm1d(c_out),
            nn.ReLU(),
        )
        self.is_residual = c_in is c_out and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.is_residual else self.layers(x)


class TimeSeriesNetwork(nn.Module):
    """A convolution, three stages of separable ones, and a classifier of the mean over time."""

    space_name = "timeseries"

    def __init__(self, *, sensors: int, num_classes: int, channels: int, depth: int) -> None:
        super().__init__()
        width: Value = ValueChoice(_shares(channels), "stem/width")
        kernel = ValueChoice(_KERNELS, "stem/kernel")
        self.stem = nn.Sequential(
            open_nn.Conv1d(sensors, width, kernel, 2, kernel // 2, bias=False), open_nn.BatchNorm1d(width), nn.ReLU()
        )
        stages: list[nn.Module] = []
        for stage in range(3):
            before, width = width, ValueChoice(_shares(channels * (1 + stage)), f"stage{stage}/width")

            def block(number: int, c_in: Value = before, c_out: Value = width, stage: int = stage) -> nn.Module:
                kernel = ValueChoice(_KERNELS, f"stage{stage}/block{number}/kernel")
                return _Separable(c_out if number else c_in, c_out, 1 if number else 2, kernel)

            stages.append(Repeat(block, range(1, depth + 1), f"stage{stage}/depth"))
        self.stages = nn.Sequential(*stages)
        self.classifier = open_nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, num_classes) of series (B, sensors, time)."""
        return self.classifier(self.stages(self.stem(x)).mean(2))


def _shares(channels: int) -> list[int]:
    return [channels // 4, channels // 2, channels]


def timeseries(sensors: int = 1, num_classes: int = 2, *, size: Size = "s") -> nn.Module:
    """Build a space of one-dimensional convolutional networks for windows of sensors.

    Open are the widths of stem and stages, the depths of the stages, and the kernel of each block. Time is halved four
    times. Convolutions, BatchNorm, ReLU and one linear layer are all there is, which every library for microcontrollers
    has.

    Args:
        sensors: Channels of a window, at least 1.
        num_classes: Number of outputs: classes, or values that are predicted.
        size: "s", "m" or "l": the largest network has 8, 45 or 229 thousand parameters for one sensor and two classes,
            and as many kB where they are stored in 8 bits; the smallest 0.3, 0.9 or 3 thousand.

    Raises:
        OptionError: A value outside its range.
    """
    check_word("size", size, get_args(Size))
    sizes = {"sensors": sensors, "num_classes": num_classes}
    for name, value in sizes.items():
        check_whole(name, value, least=1)

    def build(_: int = 1) -> nn.Module:
        return TimeSeriesNetwork(**sizes, channels=_CHANNELS[size], depth=_DEPTHS[size])

    check_fits_memory(build, cells=1, channels=_CHANNELS[size], in_channels=sensors, num_classes=num_classes)
    return build()
