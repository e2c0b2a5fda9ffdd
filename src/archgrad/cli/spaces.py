"""Spaces by name, or of a person's own, built to fit the data."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

from torch import nn

from archgrad.cli.own_code import find_own, given_options, settled_own
from archgrad.cli.parser import Parser, dashed
from archgrad.data import Data
from archgrad.data.table_file import is_table
from archgrad.errors import OptionError, SpaceError, did_you_mean
from archgrad.json_text import shown
from archgrad.named_space import SPACES, SpaceBuilder, check_takes, known_of, missing
from archgrad.tasks import chosen_task
from archgrad.typed_names import is_own

__all__ = [
    "SPACES",
    "add_space_options",
    "default_space",
    "label_of",
    "settled_name",
    "space_builder",
    "typed_space",
    "with_space",
]

_DEFAULT = "darts-cifar"
_RETRAIN_SIZES = {"darts-cifar": {"channels": 36, "cells": 20}}
"""The paper's sizes where a space's own defaults are those of the search."""
_SIZES = ("channels", "cells")


def add_space_options(parser: Parser, *, stage: Literal["search", "retrain"]) -> None:
    """Add `--space`, `--channels` and `--cells`."""
    group = parser.add_argument_group("space")
    own = "FILE.py:NAME or package.module:NAME, a class or function of your own that returns a module"
    group.add_argument(
        "--space",
        type=str if stage == "search" else str | None,
        default=_DEFAULT if stage == "search" else None,
        help=f"{', '.join(SPACES)}, or {own} (the file is run as Python). It gets num_classes, in_channels, "
        f"image_size, in_features and sensors from the data where it has such parameters."
        + (
            " By default darts-cifar; of a table mlp."
            if stage == "search"
            else " By default the space that the architecture names."
        ),
    )
    for name, noun in (("channels", "Channels of the first cells"), ("cells", "Number of cells")):
        sizes = ", ".join(
            f"{space} {default}"
            for space in SPACES
            if (default := _RETRAIN_SIZES.get(space, {}).get(name) if stage == "retrain" else None)
            or (default := _default(SPACES[space], name))
        )
        group.add_argument(
            f"--{name}", type=int | None, help=f"{noun}, at least 1. By default the space's own: {sizes}."
        )


def _default(build: Callable[..., Any], name: str) -> Any:
    parameter = inspect.signature(build).parameters.get(name)
    return None if parameter is None or parameter.default is parameter.empty else parameter.default


def settled_name(text: str) -> str:
    """Return a space's name that means the same from any folder: a file's path made absolute.

    Raises:
        OptionError: There is no such space.
    """
    if text in SPACES:
        return text
    if not isinstance(text, str):  # a config may say space: null
        raise OptionError(f"space must be a name or FILE.py:NAME, but got space={text!r}.")
    if text.endswith(".py"):
        raise OptionError(
            f"--space {text} does not say which class or function of the file is the space. Give {text}:NAME."
        )
    if not is_own(text):
        hint = did_you_mean(text, SPACES)
        raise OptionError(
            f"There is no space {shown(text)}.{hint} Known are {', '.join(SPACES)}; your own is FILE.py:NAME or "
            f"package.module:NAME."
        )
    return settled_own(text)


def default_space(data: str) -> str:
    """Return the space of a search where none is typed: one of vectors for a table, else the paper's."""
    return "mlp" if is_table(data) else _DEFAULT


def with_space(values: dict[str, Any], arguments: Sequence[str]) -> None:
    """Settle the space of a search, and that of a table where none was typed."""
    typed = any(argument.partition("=")[0] == "--space" for argument in arguments)
    if not typed and values["space"] == _DEFAULT and isinstance(values["data"], str):
        values["space"] = default_space(values["data"])
    values["space"] = settled_name(values["space"])


def label_of(text: str) -> str:
    """Return a short name of a space for folders."""
    return text.rpartition(":")[2]


def space_builder(
    text: str,
    data: Data,
    *,
    stage: Literal["search", "retrain"],
    channels: int | None = None,
    cells: int | None = None,
    auxiliary: bool = False,
    options: Mapping[str, Any] = MappingProxyType({}),
    outputs: int = 0,
) -> tuple[SpaceBuilder, dict[str, int | None]]:
    """Return what builds a space that fits the data.

    Args:
        text: What `--space` was given, settled.
        data: Tells classes, channels and size of the images.
        stage: What the space is for; handed on where it has such a parameter.
        channels: Of the first cells; None for the space's own default.
        cells: Their number; None for the space's own default.
        auxiliary: Whether to add the auxiliary head where the space has one.
        options: Further parameters of the space, as typed with `--space.NAME`.
        outputs: How many classes, labels or values there are, where the data does not tell.

    Returns:
        The builder, and the sizes that hold, None where the space has no such size.

    Raises:
        OptionError: The space has no such size, or it is outside its range.
        SpaceError: The space is not found, cannot be built from these, or is no module.
    """
    build = SPACES.get(text) or _own(text)
    check_takes(text, data, options)
    parameters = inspect.signature(build).parameters
    given: dict[str, Any] = {}
    for name, size in zip(_SIZES, (channels, cells), strict=True):
        size = _RETRAIN_SIZES.get(text, {}).get(name) if size is None and stage == "retrain" else size
        if size is not None and name not in parameters:
            raise OptionError(f"The space '{text}' has no {name}, but got --{name} {size}. Leave it out.")
        if size is not None:
            given[name] = size
    given |= given_options("space", text, parameters, options, set_elsewhere=_SIZES)
    gets = {
        **known_of(data, outputs),
        "stage": stage,
        **({"auxiliary": True} if auxiliary and stage == "retrain" else {}),
    }
    known = {name: value for name, value in gets.items() if name in parameters}
    if needed := missing(parameters, {**known, **given}):
        raise SpaceError(
            f"The space '{text}' needs {', '.join(needed)}, but a space gets channels, cells (if given), "
            f"{', '.join(gets)}, of these data. Give the others defaults, or type {dashed(f'--space.{needed[0]}')}."
        )
    sizes = {name: given.get(name, _default(build, name)) for name in _SIZES}
    return SpaceBuilder(text, build, known, given), sizes


def typed_space(
    values: Mapping[str, Any], data: Data, *, stage: Literal["search", "retrain"], auxiliary: bool = False
) -> tuple[SpaceBuilder, dict[str, int | None]]:
    """Return what `space_builder` does, of the options that were typed.

    Args:
        values: Of the command line, names settled.
        data: As for `space_builder`.
        stage: As for `space_builder`.
        auxiliary: As for `space_builder`.
    """
    return space_builder(
        values["space"],
        data,
        stage=stage,
        channels=values["channels"],
        cells=values["cells"],
        auxiliary=auxiliary,
        options=values.get("space_options", {}),
        outputs=outputs_of(values, data),
    )


def outputs_of(values: Mapping[str, Any], data: Data) -> int:
    """Return how many classes, labels or values the task that was typed has, or that the data's targets tell.

    Raises:
        OptionError: Targets and task do not go together, or the targets do not tell which it is.
    """
    if values.get("task") is None and data.classes:
        return len(data.classes)
    return len(chosen_task(values.get("task"), data, loss=values.get("loss")).task.labels)


def _own(text: str) -> Callable[..., Any]:
    found = find_own(text, what="space", error=SpaceError)
    if isinstance(found, nn.Module):
        return lambda: found
    if not callable(found):
        raise SpaceError(f"'{text}' must be a class or function, but it is of type {type(found).__name__}.")
    return found
