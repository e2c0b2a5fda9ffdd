"""What is added to the alphas' loss: one term a file."""

from archgrad.regularizers.beta_decay import BetaDecay
from archgrad.regularizers.budget_text import budgets_of
from archgrad.regularizers.cost_penalty import CostBudget, CostPenalty
from archgrad.regularizers.dirichlet_kl import DirichletKL
from archgrad.regularizers.entropy import Entropy
from archgrad.regularizers.regularizer import Regularizer
from archgrad.regularizers.zero_one import ZeroOne

__all__ = ["BetaDecay", "CostBudget", "CostPenalty", "DirichletKL", "Entropy", "Regularizer", "ZeroOne", "budgets_of"]
