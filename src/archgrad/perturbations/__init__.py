"""How the mixing weights of the weights' pass are moved: one strategy a file."""

from archgrad.perturbations.adversarial import Adversarial, attacked
from archgrad.perturbations.perturbation import Perturbation, Probe
from archgrad.perturbations.uniform import Uniform, onto_simplex

__all__ = ["Adversarial", "Perturbation", "Probe", "Uniform", "attacked", "onto_simplex"]
