"""Training of a derived network from scratch, in a run folder that survives interruptions."""

from archgrad.retrain.recipe import Recipe
from archgrad.retrain.recipes import RECIPES
from archgrad.retrain.retrain_api import RetrainResult, retrain

__all__ = ["RECIPES", "Recipe", "RetrainResult", "retrain"]
