"""A linear layer of which the numbers of features may be open."""

from __future__ import annotations

from torch import nn

from archgrad.nn.weighted import WeightedLayer
from archgrad.values import Number, Value

__all__ = ["Linear"]


class Linear(WeightedLayer):
    """`torch.nn.Linear`, of which the features may be open.

    Args:
        in_features: Features that are read; a sum stands for features that were concatenated.
        out_features: Features that are computed.
        bias: Whether there is one.
    """

    out_name = "out_features"
    in_name = "in_features"

    def __init__(self, in_features: Value | Number, out_features: Value | Number, bias: bool = True) -> None:
        super().__init__(nn.Linear, {"in_features": in_features, "out_features": out_features}, {"bias": bias})
