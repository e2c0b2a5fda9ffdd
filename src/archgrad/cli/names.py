"""How Python names are typed on the command line; imports nothing, so that lists of names are quick."""

from __future__ import annotations

import re

__all__ = ["UNROLLED", "name_of"]

UNROLLED = {"unrolled": "finite-difference", "exact": "exact"}
"""The names of `archgrad.bilevel.Unrolled`, each with the `hvp` that it stands for."""


def name_of(python_name: str) -> str:
    """Return a class's or function's name as it is typed: FirstOrder is first-order, darts_cifar is darts-cifar."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|_", "-", python_name).lower()
