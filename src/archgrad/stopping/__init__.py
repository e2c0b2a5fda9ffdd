"""When a search ends before its last epoch: one rule a file."""

from archgrad.stopping.epoch_limit import EpochLimit
from archgrad.stopping.hessian_eigenvalue import HessianEigenvalue, hessian_eigenvalue, largest_eigenvalue
from archgrad.stopping.skip_count import SkipCount
from archgrad.stopping.stopping import Stop, Stopping

__all__ = [
    "EpochLimit",
    "HessianEigenvalue",
    "SkipCount",
    "Stop",
    "Stopping",
    "hessian_eigenvalue",
    "largest_eigenvalue",
]
