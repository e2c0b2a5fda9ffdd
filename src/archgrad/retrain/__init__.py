"""Training of a derived network from scratch, in a run folder that survives interruptions."""

from archgrad.retrain.recipe import Recipe
from archgrad.retrain.retrain_api import RetrainResult, retrain

__all__ = ["Recipe", "RetrainResult", "retrain"]
