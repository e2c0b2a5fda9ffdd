"""Methods of search: what they are made of, and the published ones."""

from archgrad.methods import presets
from archgrad.methods.ensemble import Ensemble
from archgrad.methods.method import Method, Place
from archgrad.methods.presets import *  # noqa: F403 (a preset is said once, in its own list)
from archgrad.methods.stage import Stage

__all__ = ["Ensemble", "Method", "Place", "Stage"]
__all__ += presets.__all__
