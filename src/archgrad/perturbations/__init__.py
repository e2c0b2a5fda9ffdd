"""How the mixing weights of the weights' pass are moved: one strategy a file."""

from archgrad.perturbations.base import Perturbation, Probe
from archgrad.perturbations.uniform import Uniform, onto_simplex

__all__ = ["Perturbation", "Probe", "Uniform", "onto_simplex"]
