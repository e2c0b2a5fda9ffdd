"""A part of a search with its own length, in which the alphas may wait, and before which rows may be pruned."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from archgrad.errors import OptionError

__all__ = ["Stage"]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a search.

    Lengths are shares: a search that is given another number of epochs scales `epochs` and `alphas_start_epoch`.
    """

    epochs: int | None = None
    """Length, at least 1; None for the only stage, which is then as long as the search."""
    alphas_start_epoch: int = 0
    """Epochs of the stage in which the weights alone learn, from 0 to `epochs`."""
    keep: int | None = None
    """Candidates that are left on each row when the stage begins, at least 1: the likeliest, whatever the selection
    ranks in the end. None leaves all that the stage before had."""
    space: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Options of the space, such as {"cells": 11}, for a space that has a name or is a function or class. The stage
    then begins anew with that network: with first weights and alphas, fresh optimizers, and a course of the weights'
    learning rate of its own. All that stays is what is left of the rows. Empty goes on with the network as it is. The
    stages of a method must decide between the same."""
    widen: bool = False
    """Go on with the network of the stage before, whose sizes may only grow with `space`: alphas, optimizers and the
    course of the learning rate go on, and weights, momentum and running statistics are copied. A new channel is a copy
    of an old one at random (Chen et al. 2021, DrNAS, section 4). Layers that are new begin with first weights."""
    skip_dropout: float = 0.0
    """Rate r of dropout after identities among the candidates, from 0 to below 1, in the passes of both weights and
    alphas. While the alphas wait it is r (E - e - 1) / E in epoch e of E; in the epochs after it is r exp(-3 t) at the
    share t of them, from 0. So it is in the authors' code at their E = 25 with 10 epochs of waiting (Chen et al. 2019,
    section 3.3). Needs a length."""

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
        if not isinstance(self.space, Mapping) or not all(isinstance(name, str) for name in self.space):
            raise OptionError(f"space of a stage must be options of the space by name, but got {self.space!r}.")
        object.__setattr__(self, "space", dict(self.space))
        if self.widen and not self.space:
            raise OptionError("A stage that widens the network needs the sizes that grow. Give space={...}.")
        rate = self.skip_dropout
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate < 1:
            raise OptionError(f"skip_dropout of a stage must be from 0 to below 1, but got {rate!r}.")
        if rate and self.epochs is None:
            raise OptionError("skip_dropout follows the length of its stage. Give Stage(epochs=...).")

    def scaled(self, epochs: int) -> Stage:
        """Return the stage at another length; if its alphas learn, they still do in one epoch at least."""
        assert self.epochs is not None
        start = (2 * self.alphas_start_epoch * epochs + self.epochs) // (2 * self.epochs)
        most = epochs if self.alphas_start_epoch == self.epochs else epochs - 1
        return replace(self, epochs=epochs, alphas_start_epoch=min(start, most))

    def skip_dropout_at(self, epoch: int) -> float:
        """Return the rate of the dropout after identities in an epoch of the stage, 0-based."""
        if not self.skip_dropout:
            return 0.0
        assert self.epochs is not None
        learning = epoch - self.alphas_start_epoch
        if learning < 0:
            return self.skip_dropout * (self.epochs - epoch - 1) / self.epochs
        return self.skip_dropout * math.exp(-3.0 * learning / (self.epochs - self.alphas_start_epoch))
