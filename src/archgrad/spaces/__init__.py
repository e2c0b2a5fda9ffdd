"""Search spaces: the paper's cells, two benchmarks', networks of open sizes for many inputs, any model's own."""

from archgrad.spaces.darts import darts_cifar, darts_imagenet
from archgrad.spaces.from_module import from_module
from archgrad.spaces.layer_places import LayerPlace
from archgrad.spaces.mlp import mlp
from archgrad.spaces.mobile import mobile
from archgrad.spaces.module_rules import (
    Bottleneck,
    Candidate,
    DepthwiseSeparable,
    Kernels,
    LayerRule,
    OpenKernels,
    Skip,
)
from archgrad.spaces.nasbench201 import nasbench201
from archgrad.spaces.nasbench_macro import nasbench_macro
from archgrad.spaces.tabular import tabular
from archgrad.spaces.timeseries import timeseries
from archgrad.spaces.tiny import tiny
from archgrad.spaces.transformer import transformer

__all__ = [
    "NAMED",
    "Bottleneck",
    "Candidate",
    "DepthwiseSeparable",
    "Kernels",
    "LayerPlace",
    "LayerRule",
    "OpenKernels",
    "Skip",
    "darts_cifar",
    "darts_imagenet",
    "from_module",
    "mlp",
    "mobile",
    "nasbench201",
    "nasbench_macro",
    "tabular",
    "timeseries",
    "tiny",
    "transformer",
]

NAMED = (
    "darts_cifar",
    "darts_imagenet",
    "mlp",
    "mobile",
    "nasbench201",
    "nasbench_macro",
    "tabular",
    "timeseries",
    "tiny",
    "transformer",
)
"""Those that come with archgrad, which their name is enough to build."""
