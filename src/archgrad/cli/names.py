"""How Python names are typed on the command line; imports nothing else, so that lists of names are quick."""

from __future__ import annotations

from archgrad.typed_names import name_of

__all__ = ["UNROLLED", "name_of"]

UNROLLED = {"unrolled": "finite-difference", "exact": "exact"}
"""The names of `archgrad.bilevel.Unrolled`, each with the `hvp` that it stands for."""
