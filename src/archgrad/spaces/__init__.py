"""Search spaces: the paper's convolutional networks, those of two benchmarks, and a tiny one to try things on."""

from archgrad.spaces.darts import darts_cifar, darts_imagenet
from archgrad.spaces.nasbench201 import nasbench201
from archgrad.spaces.nasbench_macro import nasbench_macro
from archgrad.spaces.tiny import tiny

__all__ = ["darts_cifar", "darts_imagenet", "nasbench201", "nasbench_macro", "tiny"]
