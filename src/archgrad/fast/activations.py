"""Activations that are known: functions of every number by itself, by a module or by a function."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archgrad.exactness import as_defined, kind_of
from archgrad.fast.native import Activation

__all__ = ["ACTIVATIONS", "FUNCTIONS", "METHODS", "activation_of"]

ACTIVATIONS: dict[type[nn.Module], tuple[Callable[..., Tensor], tuple[str, ...]]] = {
    nn.ReLU: (torch.relu, ()),
    nn.ReLU6: (F.hardtanh, ("min_val", "max_val")),
    nn.Hardtanh: (F.hardtanh, ("min_val", "max_val")),
    nn.LeakyReLU: (F.leaky_relu, ("negative_slope",)),
    nn.ELU: (F.elu, ("alpha",)),
    nn.CELU: (F.celu, ("alpha",)),
    nn.SELU: (F.selu, ()),
    nn.GELU: (F.gelu, ("approximate",)),
    nn.SiLU: (F.silu, ()),
    nn.Mish: (F.mish, ()),
    nn.Hardswish: (F.hardswish, ()),
    nn.Sigmoid: (torch.sigmoid, ()),
    nn.Tanh: (torch.tanh, ()),
    nn.Softplus: (F.softplus, ("beta", "threshold")),
}
"""Classes, and what they compute with which of their settings."""
as_defined(*ACTIVATIONS)

FUNCTIONS: dict[str, nn.Module] = {
    **{"relu": nn.ReLU(), "relu6": nn.ReLU6(), "hardtanh": nn.Hardtanh(), "leaky_relu": nn.LeakyReLU()},
    **{"elu": nn.ELU(), "celu": nn.CELU(), "selu": nn.SELU(), "gelu": nn.GELU(), "silu": nn.SiLU()},
    **{"mish": nn.Mish(), "hardswish": nn.Hardswish(), "softplus": nn.Softplus()},
    **{"sigmoid": nn.Sigmoid(), "tanh": nn.Tanh()},
}
"""Functions of `torch` or `torch.nn.functional`, and modules that compute what these do of nothing but an image."""
METHODS = frozenset({"relu", "sigmoid", "tanh"})
"""Those that are methods of tensors, too."""


def activation_of(module: nn.Module) -> Activation | None:
    """Return what an activation computes, which is exactly of one of these classes; None if its settings are odd."""
    function, names = ACTIVATIONS[kind_of(module)]
    settings = tuple((name, getattr(module, name, None)) for name in names)
    known = all(type(value) in (int, float, str) for _, value in settings)
    return Activation(function, settings) if known else None
