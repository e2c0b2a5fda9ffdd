"""The gradient of the alphas, one method a file, and the whole step that uses it."""

from archgrad.bilevel.base import AlphasGradient, BilevelStep
from archgrad.bilevel.first_order import FirstOrder
from archgrad.bilevel.step import StepReport, search_step
from archgrad.bilevel.unrolled import Unrolled

__all__ = ["AlphasGradient", "BilevelStep", "FirstOrder", "StepReport", "Unrolled", "search_step"]
