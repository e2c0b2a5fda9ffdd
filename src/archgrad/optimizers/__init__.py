"""How the alphas move along their gradient: one optimizer a file."""

from archgrad.optimizers.adam import Adam
from archgrad.optimizers.alphas_optimizer import AlphasOptimizer
from archgrad.optimizers.exponentiated_gradient import ExponentiatedGradient

__all__ = ["Adam", "AlphasOptimizer", "ExponentiatedGradient"]
