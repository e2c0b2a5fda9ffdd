"""How names of Python are typed on the command line and stand in config.yaml."""

from __future__ import annotations

import re
from typing import TypeGuard

__all__ = ["OF_IMAGES", "OF_LOADING", "OF_TABLES", "OWN_KINDS", "is_own", "name_of"]

OWN_KINDS = ("data", "space")
"""The options that take code of a person's own; `--data.NAME` and `--space.NAME` set its parameters."""

OF_IMAGES, OF_TABLES = ("image_size", "fit", "skip_unreadable"), ("target", "group", "time", "sample_weight")
OF_LOADING = (*OF_IMAGES, *OF_TABLES, "fold")
"""The options that say how data is loaded, which belong to it wherever it is loaded again."""

_FOLDER = "folder:"


def name_of(python_name: str) -> str:
    """Return a class's or function's name as it is typed: FirstOrder is first-order, darts_cifar is darts-cifar."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|_", "-", python_name).lower()


def is_own(text: object) -> TypeGuard[str]:
    """Whether a text names code: FILE.py:NAME or package.module:NAME."""
    if not isinstance(text, str) or text.startswith(_FOLDER):  # a folder of images
        return False
    place, colon, name = text.rpartition(":")
    module = all(part.isidentifier() for part in place.split("."))
    return bool(colon) and name.isidentifier() and (place.endswith(".py") or module)
