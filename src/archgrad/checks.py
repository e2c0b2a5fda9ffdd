"""What a value must be, asked in one way wherever one is given."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from archgrad.errors import OptionError
from archgrad.json_text import shown

__all__ = ["check_real", "check_word", "is_whole"]


def is_whole(value: Any, *, least: int | None = None) -> bool:
    """Return whether a value is a whole number, of at least `least`; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool) and (least is None or value >= least)


def check_real(
    name: str, value: Any, *, least: float = 0.0, above: float | None = None, below: float = math.inf, remedy: str = ""
) -> None:
    """Refuse what is no number in a range; nan is in none, and True and False are no numbers.

    Args:
        name: Of the option, for the message.
        value: What it was given.
        least: Smallest value allowed.
        above: Instead of `least`, what the value must be above.
        below: What the value must be below; infinity asks for any that is finite.
        remedy: A sentence for the end of the message.

    Raises:
        OptionError: It is of another type, or outside the range.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not value < below or not (value >= least if above is None else value > above):
        start = f"of at least {least:g}" if above is None else f"above {above:g}"
        kind, end = ("finite ", "") if below == math.inf else ("", f" and below {below:g}")
        raise OptionError(
            f"{name} must be a {kind}number {start}{end}, but got {name}={shown(value)}.{remedy and f' {remedy}.'}"
        )


def check_word(name: str, value: Any, words: Collection[str]) -> None:
    """Refuse what is none of some words.

    Raises:
        OptionError: It is something else.
    """
    if not isinstance(value, str) or value not in words:
        raise OptionError(f"{name} must be one of {', '.join(words)}, but got {name}={shown(value)}.")
