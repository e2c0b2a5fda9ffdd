"""What is added to the alphas' loss: one term a file."""

from archgrad.regularizers.base import Regularizer
from archgrad.regularizers.beta_decay import BetaDecay

__all__ = ["BetaDecay", "Regularizer"]
