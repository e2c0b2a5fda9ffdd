"""Differentiable architecture search over any PyTorch module.

space -> Supernet -> search -> Architecture -> derive -> retrain -> report
"""

from archgrad import architectures, bilevel, data, official, relaxation, spaces
from archgrad.architecture import Architecture
from archgrad.bilevel import StepReport, search_step
from archgrad.cell import Cell
from archgrad.choices import InputChoice, LayerChoice
from archgrad.derive import derive
from archgrad.discretize import discretize, random_architecture
from archgrad.nni import DartsTrainer
from archgrad.retrain import RetrainResult, retrain
from archgrad.search import SearchResult, search
from archgrad.supernet import Supernet

__version__ = "0.1.0"

__all__ = [
    "Architecture",
    "Cell",
    "DartsTrainer",
    "InputChoice",
    "LayerChoice",
    "RetrainResult",
    "SearchResult",
    "StepReport",
    "Supernet",
    "architectures",
    "bilevel",
    "data",
    "derive",
    "discretize",
    "official",
    "random_architecture",
    "relaxation",
    "retrain",
    "search",
    "search_step",
    "spaces",
]
