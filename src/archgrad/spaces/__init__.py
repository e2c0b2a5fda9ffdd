"""Search spaces: the paper's convolutional and recurrent ones, two benchmarks', of vectors, a tiny one, any model's."""

from archgrad.spaces.darts import darts_cifar, darts_imagenet
from archgrad.spaces.darts_rnn import darts_rnn
from archgrad.spaces.from_module import from_module
from archgrad.spaces.layer_places import LayerPlace
from archgrad.spaces.mlp import mlp
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
from archgrad.spaces.tiny import tiny

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
    "darts_rnn",
    "from_module",
    "mlp",
    "nasbench201",
    "nasbench_macro",
    "tiny",
]

NAMED = ("darts_cifar", "darts_imagenet", "darts_rnn", "mlp", "nasbench201", "nasbench_macro", "tiny")
"""Those that come with archgrad, which their name is enough to build."""
