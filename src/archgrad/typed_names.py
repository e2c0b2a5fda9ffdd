"""How names of Python are typed on the command line and stand in config.yaml."""

from __future__ import annotations

import re
from typing import TypeGuard

__all__ = ["OF_IMAGES", "OF_LOADING", "OF_TABLES", "OF_TEXT", "OWN_KINDS", "PREFIXES", "TEXT", "is_own", "name_of"]

OWN_KINDS = ("data", "space")
"""The options that take code of a person's own; `--data.NAME` and `--space.NAME` set its parameters."""

OF_IMAGES = ("image_size", "fit", "augmentation", "skip_unreadable")
OF_TABLES = ("target", "group", "time", "sample_weight")
OF_TEXT = ("tokens", "window")
OF_LOADING = (*OF_IMAGES, *OF_TABLES, *OF_TEXT, "fold")
"""The options that say how data is loaded, which belong to it wherever it is loaded again."""

TEXT = "text:"
PREFIXES = ("folder:", TEXT)
"""How the names of data in a folder of images, and in a text, begin."""


def name_of(python_name: str) -> str:
    """Return a class's or function's name as it is typed: FirstOrder is first-order, darts_cifar is darts-cifar."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|_", "-", python_name).lower()


def is_own(text: object) -> TypeGuard[str]:
    """Whether a text names code: FILE.py:NAME or package.module:NAME."""
    if not isinstance(text, str) or text.startswith(PREFIXES):
        return False
    place, colon, name = text.rpartition(":")
    module = all(part.isidentifier() for part in place.split("."))
    return bool(colon) and name.isidentifier() and (place.endswith(".py") or module)
