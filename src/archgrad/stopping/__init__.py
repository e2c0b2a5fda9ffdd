"""When a search ends before its last epoch: one rule a file."""

from archgrad.stopping.base import Stop, Stopping
from archgrad.stopping.skip_count import SkipCount

__all__ = ["SkipCount", "Stop", "Stopping"]
