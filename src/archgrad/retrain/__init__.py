"""Training of a derived network from scratch, in a run folder that survives interruptions."""

from archgrad.retrain.entry import RetrainResult, retrain
from archgrad.retrain.recipe import Recipe

__all__ = ["Recipe", "RetrainResult", "retrain"]
