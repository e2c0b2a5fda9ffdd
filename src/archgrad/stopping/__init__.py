"""When a search ends before its last epoch: one rule a file."""

from archgrad.stopping.base import Stop, Stopping
from archgrad.stopping.hessian_eigenvalue import HessianEigenvalue, hessian_eigenvalue, largest_eigenvalue
from archgrad.stopping.skip_count import SkipCount

__all__ = ["HessianEigenvalue", "SkipCount", "Stop", "Stopping", "hessian_eigenvalue", "largest_eigenvalue"]
