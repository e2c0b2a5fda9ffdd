"""What the regularisers of a search say, and what they tell of an epoch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from archgrad.architecture import Architecture
from archgrad.regularizers import Regularizer
from archgrad.supernet import Supernet

__all__ = ["of_regularizers", "say_remarks"]


def say_remarks(regularizers: Sequence[Regularizer], say: Callable[[str], None]) -> None:
    """Say what regularisers have to say when a search begins."""
    for remark in filter(None, (part.remark() for part in regularizers)):
        say(remark)


def of_regularizers(
    regularizers: Sequence[Regularizer], supernet: Supernet, architecture: Architecture
) -> dict[str, float]:
    """Return the columns of regularisers for the architecture of an epoch, and let them remember it."""
    figures = {name: value for part in regularizers for name, value in part.figures(architecture).items()}
    for part in regularizers:
        supernet.memory.update(part.after_epoch(architecture))
    return figures
