"""The errors that archgrad raises; each message says where, which rule, which value, and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ArchgradError(Exception):
    """Base of every error that archgrad raises on purpose."""


class SpaceError(ArchgradError):
    """A search space, or a choice in it, breaks a rule."""


class ArchitectureError(ArchgradError):
    """An architecture file or text cannot be read, or does not fit its space."""


class DataError(ArchgradError):
    """A data set is missing, empty, corrupt, or too small for what was asked."""


class RunError(ArchgradError):
    """A run folder or checkpoint cannot be used as asked."""


class OptionError(ArchgradError, ValueError):
    """An option has a value outside its range, or does not go with the others."""


class NonFiniteError(ArchgradError, ArithmeticError):
    """A loss or a gradient is NaN or infinite."""


class ExportError(ArchgradError):
    """A network cannot be exported, or an exported one cannot be used."""


def did_you_mean(given: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """Return the end of a message about a name that is not known: " Did you mean 'NAME'?", or nothing.

    Args:
        given: The name.
        known: Those that there are.
        cutoff: How like it one must be, from 0 to 1.
    """
    near = difflib.get_close_matches(given, list(known), n=1, cutoff=cutoff)
    return f" Did you mean '{near[0]}'?" if near else ""
