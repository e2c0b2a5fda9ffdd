"""The gradient of the alphas, one method a file, the whole step that uses it, and its passes as CUDA graphs."""

from archgrad.bilevel.bilevel_step import AlphasGradient, BilevelStep
from archgrad.bilevel.first_order import FirstOrder
from archgrad.bilevel.flat import Flat
from archgrad.bilevel.graph_cache import cuda_graphs
from archgrad.bilevel.implicit import Implicit
from archgrad.bilevel.step import StepReport, search_step
from archgrad.bilevel.unrolled import Unrolled

__all__ = [
    "AlphasGradient",
    "BilevelStep",
    "FirstOrder",
    "Flat",
    "Implicit",
    "StepReport",
    "Unrolled",
    "cuda_graphs",
    "search_step",
]
