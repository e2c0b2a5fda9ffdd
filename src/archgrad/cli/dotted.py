"""Options with a dot: `--relaxation.temperature-max 5` sets an option of a part, `--space.nodes 3` one of the space."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import yaml

from archgrad.errors import OptionError

__all__ = ["Dotted", "split_dotted"]


class Dotted(NamedTuple):
    """One option with a dot."""

    typed: str
    """As it was typed, without the value."""
    path: tuple[str, ...]
    """Its parts, with "_"."""
    value: Any
    """What was typed, read as YAML."""


def split_dotted(arguments: Sequence[str], heads: Collection[str]) -> tuple[list[str], list[Dotted]]:
    """Take the options with a dot out of what was typed.

    Args:
        arguments: What was typed after the command.
        heads: What may stand before the first dot, with "_".

    Returns:
        The other arguments, and the options with a dot in order.

    Raises:
        OptionError: One has no value, or a value that is no YAML.
    """
    rest: list[str] = []
    found: list[Dotted] = []
    waiting = iter(arguments)
    for argument in waiting:
        name, equals, text = argument.partition("=")
        path = tuple(part.replace("-", "_") for part in name.removeprefix("--").split("."))
        if not name.startswith("--") or len(path) < 2 or path[0] not in heads:
            rest.append(argument)
            continue
        value = text if equals else next(waiting, None)
        if value is None or (not equals and value.startswith("--")):
            raise OptionError(f"{name} needs a value. Give {name} VALUE.")
        try:
            found.append(Dotted(name, path, yaml.safe_load(value)))
        except yaml.YAMLError as error:
            raise OptionError(f"{name} takes a value that YAML can read, but got {value!r}.") from error
    return rest, found
