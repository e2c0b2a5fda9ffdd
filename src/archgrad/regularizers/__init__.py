"""What is added to the alphas' loss: one term a file."""

from archgrad.regularizers.base import Regularizer
from archgrad.regularizers.beta_decay import BetaDecay
from archgrad.regularizers.dirichlet_kl import DirichletKL

__all__ = ["BetaDecay", "DirichletKL", "Regularizer"]
