"""Layers of PyTorch whose numbers may be open: a `ValueChoice`, or arithmetic on some, in the place of a number.

They take the arguments of `torch.nn` by the same names. Derived, each is the layer of `torch.nn`.
"""

from archgrad.nn.attention import MultiheadAttention
from archgrad.nn.convolution import Conv1d, Conv2d, Conv3d
from archgrad.nn.linear import Linear
from archgrad.nn.normalisation import BatchNorm1d, BatchNorm2d, BatchNorm3d, GroupNorm, LayerNorm
from archgrad.nn.unweighted import (
    AvgPool1d,
    AvgPool2d,
    Dropout,
    Dropout1d,
    Dropout2d,
    MaxPool1d,
    MaxPool2d,
    Scalar,
)

__all__ = [
    "AvgPool1d",
    "AvgPool2d",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "GroupNorm",
    "LayerNorm",
    "Linear",
    "MaxPool1d",
    "MaxPool2d",
    "MultiheadAttention",
    "Scalar",
]
