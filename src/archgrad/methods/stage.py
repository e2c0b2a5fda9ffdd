"""A part of a search with its own length, in which the alphas may wait, and before which rows may be pruned."""

from __future__ import annotations

from dataclasses import dataclass

from archgrad.errors import OptionError

__all__ = ["Stage"]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a search."""

    epochs: int | None = None
    """Length, at least 1; None for the only stage, which is then as long as the search."""
    alphas_start_epoch: int = 0
    """Epochs of the stage in which the weights alone learn, from 0 to `epochs`."""
    keep: int | None = None
    """Candidates that are left on each row when the stage begins, at least 1: those with the best scores. None leaves
    all that the stage before had."""

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("alphas_start_epoch", 0), ("keep", 1)):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise OptionError(f"{name} of a stage must be a whole number of at least {least}, but got {value!r}.")
        if self.epochs is not None and self.alphas_start_epoch > self.epochs:
            raise OptionError(
                f"alphas_start_epoch must be at most the stage's epochs={self.epochs}, "
                f"but got alphas_start_epoch={self.alphas_start_epoch}."
            )
