"""How alphas become mixing weights: one strategy a file."""

from archgrad.relaxation.base import Relaxation
from archgrad.relaxation.gumbel import Gumbel
from archgrad.relaxation.softmax import Softmax

__all__ = ["Gumbel", "Relaxation", "Softmax"]
