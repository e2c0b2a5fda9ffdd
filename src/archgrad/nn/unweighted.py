"""Layers without weights that take an open number: dropout and pools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from archgrad.valued import ValuedLayer, ValuedModule, assignments
from archgrad.values import ChosenValue, Number, Pick, Value

__all__ = [
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "Scalar",
]


class _Unweighted(ValuedLayer):
    def widest(self, picks: Sequence[Pick]) -> nn.Module:
        """Return the layer of the first values; it has no weights."""
        return self.kind(**self.arguments(picks[0]))


class Dropout(_Unweighted):
    """`torch.nn.Dropout`, of which the probability may be open; each value drops on its own.

    Args:
        p: Probability that an entry is zeroed.
    """

    kind_of_layer: type[nn.Module] = nn.Dropout

    def __init__(self, p: Value | float = 0.5) -> None:
        super().__init__(self.kind_of_layer, {"p": p}, {})


class Dropout1d(Dropout):
    """`torch.nn.Dropout1d`, of which the probability may be open.

    Args:
        p: Probability that a channel is zeroed.
    """

    kind_of_layer = nn.Dropout1d


class Dropout2d(Dropout):
    """`torch.nn.Dropout2d`, of which the probability may be open.

    Args:
        p: Probability that a channel is zeroed.
    """

    kind_of_layer = nn.Dropout2d


class Dropout3d(Dropout):
    """`torch.nn.Dropout3d`, of which the probability may be open.

    Args:
        p: Probability that a channel is zeroed.
    """

    kind_of_layer = nn.Dropout3d


class _MaxPool(_Unweighted):
    """A max pool; the arguments are said at `MaxPool2d`."""

    kind_of_layer: type[nn.Module]

    def __init__(
        self, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, *, ceil_mode: bool = False
    ) -> None:
        options = {"stride": stride, "dilation": dilation, "ceil_mode": ceil_mode}
        super().__init__(self.kind_of_layer, {"kernel_size": kernel_size, "padding": padding}, options)


class MaxPool1d(_MaxPool):
    """`torch.nn.MaxPool1d`, of which kernel and padding may be open; arguments as of `MaxPool2d`."""

    kind_of_layer = nn.MaxPool1d


class MaxPool2d(_MaxPool):
    """`torch.nn.MaxPool2d`, of which kernel and padding may be open; it returns no indices.

    Outputs must be equally large (`padding=kernel // 2`).

    Args:
        kernel_size: Size of the window.
        stride: As in torch, except that it must be given where the kernel is open.
        padding: Of the input.
        dilation: As in torch.
        ceil_mode: As in torch.
    """

    kind_of_layer = nn.MaxPool2d


class MaxPool3d(_MaxPool):
    """`torch.nn.MaxPool3d`, of which kernel and padding may be open; arguments as of `MaxPool2d`."""

    kind_of_layer = nn.MaxPool3d


class _AvgPool(_Unweighted):
    """An average pool; the arguments are said at `AvgPool2d`."""

    kind_of_layer: type[nn.Module]

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        options = {"stride": stride, "ceil_mode": ceil_mode, "count_include_pad": count_include_pad}
        if divisor_override is not None:
            options["divisor_override"] = divisor_override
        super().__init__(self.kind_of_layer, {"kernel_size": kernel_size, "padding": padding}, options)


class AvgPool1d(_AvgPool):
    """`torch.nn.AvgPool1d`, of which kernel and padding may be open; arguments as of `AvgPool2d`, but for the last."""

    kind_of_layer = nn.AvgPool1d


class AvgPool2d(_AvgPool):
    """`torch.nn.AvgPool2d`, of which kernel and padding may be open.

    Outputs must be equally large (`padding=kernel // 2`).

    Args:
        kernel_size: Size of the window.
        stride: As in torch, except that it must be given where the kernel is open.
        padding: Of the input.
        ceil_mode: As in torch.
        count_include_pad: Whether the mean counts the zeros of the padding.
        divisor_override: What the sum is divided by in the place of the size of the window.
    """

    kind_of_layer = nn.AvgPool2d


class AvgPool3d(_AvgPool):
    """`torch.nn.AvgPool3d`, of which kernel and padding may be open; arguments as of `AvgPool2d`."""

    kind_of_layer = nn.AvgPool3d


class Scalar(ValuedModule):
    """A number for use in `forward`: `self.scale()` returns the mean of its values, weighed as they are mixed.

    Args:
        value: The open number.
    """

    def __init__(self, value: Value | Number) -> None:
        super().__init__({"value": value})

    def closed(self, pick: Pick, *, keep_weights: bool) -> nn.Module:
        """Return a module that returns the chosen number."""
        return ChosenValue(self.number("value", pick))

    def forward(self) -> Any:
        """Return a tensor without dimensions; where nothing is open, the number."""
        if not self.choices:
            return self.numbers["value"]
        terms = [weight * self.number("value", pick) for pick, weight in assignments(self.choices)]
        return self.with_inactive(sum(terms[1:], start=terms[0]))
