"""Numbers that change over a search, as functions of how far it is: no part of a method keeps the epoch to itself."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from archgrad.errors import OptionError

__all__ = ["Cosine", "Exponential", "Linear", "Number", "Progress", "Schedule", "check_number", "value_of"]


@dataclass(frozen=True)
class Progress:
    """How far a search is.

    Raises:
        OptionError: The epoch is not one of the epochs, or the step is negative.
    """

    epoch: int
    """The epoch that is running, 0-based."""
    epochs: int
    """Epochs of the whole search."""
    step: int = 0
    """The step of the epoch that is running, 0-based."""

    def __post_init__(self) -> None:
        if not 0 <= self.epoch < self.epochs:
            raise OptionError(f"epoch must be from 0 to epochs - 1, but got epoch={self.epoch}, epochs={self.epochs}.")
        if self.step < 0:
            raise OptionError(f"step must be at least 0, but got step={self.step}.")


class Schedule(ABC):
    """A number that follows from the progress alone."""

    @abstractmethod
    def value(self, progress: Progress) -> float:
        """Return the number of the running epoch."""

    @property
    @abstractmethod
    def ends(self) -> tuple[float, float]:
        """The number of the first epoch, and what it goes towards; all others lie between."""

    def __repr__(self) -> str:
        first, last = self.ends
        return f"{type(self).__name__}({first}, {last})"


Number: TypeAlias = float | Schedule
"""What may stand wherever a method has a number: the number itself, or a schedule."""

Reached = Literal["last-epoch", "end"]


@dataclass(frozen=True, repr=False)
class Linear(Schedule):
    """A straight line: first + (last - first) t."""

    first: float
    """In the first epoch."""
    last: float
    """In the last epoch, or what an epoch more would have (see `reached`)."""
    reached: Reached = "last-epoch"
    """When `last` is reached: in the "last-epoch", t = epoch / (epochs - 1), or at the "end", t = epoch / epochs."""

    def __post_init__(self) -> None:
        if self.reached not in ("last-epoch", "end"):
            raise OptionError(f"reached must be 'last-epoch' or 'end', but got reached={self.reached!r}.")

    @property
    def ends(self) -> tuple[float, float]:
        """Both given numbers."""
        return self.first, self.last

    def value(self, progress: Progress) -> float:
        """Return the number of the running epoch; that of a single epoch is `first`."""
        whole = progress.epochs - (self.reached == "last-epoch")
        done = progress.epoch / whole if whole > 0 else 0.0
        return self.first - (self.first - self.last) * done


@dataclass(frozen=True, repr=False)
class Cosine(Schedule):
    """Half a cosine: last + (first - last)(1 + cos(pi epoch / epochs)) / 2."""

    first: float
    """In the first epoch."""
    last: float
    """What an epoch after the last one would have."""

    @property
    def ends(self) -> tuple[float, float]:
        """Both given numbers."""
        return self.first, self.last

    def value(self, progress: Progress) -> float:
        """Return the number of the running epoch."""
        return self.last + (self.first - self.last) * (1.0 + math.cos(math.pi * progress.epoch / progress.epochs)) / 2.0


@dataclass(frozen=True, repr=False)
class Exponential(Schedule):
    """A constant ratio from epoch to epoch: first (last / first)^(epoch / (epochs - 1))."""

    first: float
    """In the first epoch; not 0."""
    last: float
    """In the last epoch; of the same sign."""

    def __post_init__(self) -> None:
        if not self.first * self.last > 0:
            raise OptionError(f"first and last must have one sign and not be 0, but got {self.first} and {self.last}.")

    @property
    def ends(self) -> tuple[float, float]:
        """Both given numbers."""
        return self.first, self.last

    def value(self, progress: Progress) -> float:
        """Return the number of the running epoch; that of a single epoch is `first`."""
        done = progress.epoch / (progress.epochs - 1) if progress.epochs > 1 else 0.0
        return float(self.first * (self.last / self.first) ** done)


def value_of(number: Number, progress: Progress | None, what: str) -> float:
    """Return a number, or what its schedule says.

    Args:
        number: A number, or a schedule.
        progress: None where nobody has said how far the search is.
        what: The number's name for the error message.

    Raises:
        OptionError: The number changes with the epoch, and there is no progress.
    """
    if not isinstance(number, Schedule):
        return float(number)
    first, last = number.ends
    if first == last:
        return float(first)
    if progress is None:
        raise OptionError(
            f"{what} changes with the epoch ({number!r}), so it must be told how far the search is. Give search_step "
            f"progress=Progress(epoch, epochs), or set supernet.progress before calling the supernet."
        )
    return number.value(progress)


def check_number(name: str, number: object, *, above: float | None = None, least: float | None = None) -> None:
    """Check that a number, and both ends of a schedule, are finite and in range.

    Args:
        name: For the error message.
        number: What is checked.
        above: It must be larger than this.
        least: It must be at least this.

    Raises:
        OptionError: It is not.
    """
    values: tuple[Any, ...] = number.ends if isinstance(number, Schedule) else (number,)
    for value in values:
        valid = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not valid or (above is not None and not value > above) or (least is not None and not value >= least):
            rule = f" above {above:g}" if above is not None else f" of at least {least:g}" if least is not None else ""
            raise OptionError(
                f"{name} must be a finite number{rule}, or a schedule of such, but got {name}={number!r}."
            )
