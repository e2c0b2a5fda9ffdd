"""How Python names are typed on the command line and stand in config.yaml."""

from __future__ import annotations

import re

__all__ = ["name_of"]


def name_of(python_name: str) -> str:
    """Return a class's or function's name as it is typed: FirstOrder is first-order, darts_cifar is darts-cifar."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|_", "-", python_name).lower()
