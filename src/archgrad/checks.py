"""What a value must be, asked in one way wherever one is given."""

from __future__ import annotations

from typing import Any

__all__ = ["is_whole"]


def is_whole(value: Any, *, least: int | None = None) -> bool:
    """Return whether a value is a whole number, of at least `least`; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool) and (least is None or value >= least)
