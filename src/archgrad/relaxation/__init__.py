"""How alphas become mixing weights: one strategy a file."""

from archgrad.relaxation.dirichlet import Dirichlet
from archgrad.relaxation.gumbel import Gumbel
from archgrad.relaxation.rein_max import ReinMax
from archgrad.relaxation.relaxation import Domain, Relaxation
from archgrad.relaxation.sigmoid import Sigmoid
from archgrad.relaxation.simplex import Simplex
from archgrad.relaxation.soft_gumbel import SoftGumbel
from archgrad.relaxation.softmax import Softmax

__all__ = ["Dirichlet", "Domain", "Gumbel", "ReinMax", "Relaxation", "Sigmoid", "Simplex", "SoftGumbel", "Softmax"]
