"""What ranks the candidates when an architecture is derived: one selection a file."""

from archgrad.selection.likeliest import Likeliest
from archgrad.selection.one_shot import OneShot
from archgrad.selection.perturbation_based import PerturbationBased
from archgrad.selection.selection import Scores, Selection, leaving_out
from archgrad.selection.skip_limit import SkipLimit
from archgrad.selection.threshold import Threshold

__all__ = ["Likeliest", "OneShot", "PerturbationBased", "Scores", "Selection", "SkipLimit", "Threshold", "leaving_out"]
