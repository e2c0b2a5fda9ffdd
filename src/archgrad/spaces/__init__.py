"""Search spaces: the paper's convolutional networks, two benchmarks', one of vectors, and a tiny one to try on."""

from archgrad.spaces.darts import darts_cifar, darts_imagenet
from archgrad.spaces.mlp import mlp
from archgrad.spaces.nasbench201 import nasbench201
from archgrad.spaces.nasbench_macro import nasbench_macro
from archgrad.spaces.tiny import tiny

__all__ = ["darts_cifar", "darts_imagenet", "mlp", "nasbench201", "nasbench_macro", "tiny"]
