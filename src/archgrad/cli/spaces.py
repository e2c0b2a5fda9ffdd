"""Spaces by name, or of a person's own, built to fit the data."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, Literal

from torch import nn

from archgrad.cli.parser import Parser
from archgrad.data import Data
from archgrad.errors import OptionError, SpaceError
from archgrad.json_text import shown
from archgrad.named_space import SPACES, SpaceBuilder, known_of
from archgrad.paths import from_home

__all__ = ["SPACES", "add_space_options", "label_of", "settled_name", "space_builder"]

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
        default="darts-cifar" if stage == "search" else None,
        help=f"{', '.join(SPACES)}, or {own} (the file is run as Python). It gets num_classes, in_channels and "
        f"image_size from the data where it has such parameters."
        + ("" if stage == "search" else " By default the space that the architecture names."),
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
    place, colon, name = text.rpartition(":")
    if not colon or not place or not name.isidentifier():
        near = difflib.get_close_matches(text, SPACES, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise OptionError(
            f"There is no space {shown(text)}.{hint} Known are {', '.join(SPACES)}; your own is FILE.py:NAME or "
            f"package.module:NAME."
        )
    return f"{from_home(place).absolute()}:{name}" if place.endswith(".py") else text


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

    Returns:
        The builder, and the sizes that hold, None where the space has no such size.

    Raises:
        OptionError: The space has no such size, or it is outside its range.
        SpaceError: The space is not found, cannot be built from these, or is no module.
    """
    build = SPACES.get(text) or _own(text)
    if isinstance(build, nn.Module):
        build = _as_it_is(build)
    parameters = inspect.signature(build).parameters
    given: dict[str, Any] = {}
    for name, size in zip(_SIZES, (channels, cells), strict=True):
        size = _RETRAIN_SIZES.get(text, {}).get(name) if size is None and stage == "retrain" else size
        if size is not None and name not in parameters:
            raise OptionError(f"The space '{text}' has no {name}, but got --{name} {size}. Leave it out.")
        if size is not None:
            given[name] = size
    for name, value in options.items():
        if name not in parameters or name in _SIZES:
            known_names = ", ".join(f"--space.{each.replace('_', '-')}" for each in parameters if each not in _SIZES)
            raise OptionError(f"The space '{text}' has no option --space.{name}. It has {known_names or 'none'}.")
        given[name] = _typed(name, value, parameters[name].annotation)
    gets = {
        **known_of(data),
        "stage": stage,
        **({"auxiliary": True} if auxiliary and stage == "retrain" else {}),
    }
    known = {name: value for name, value in gets.items() if name in parameters}
    missing = [
        name
        for name, parameter in parameters.items()
        if name not in known
        and name not in given
        and parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if missing:
        raise SpaceError(
            f"The space '{text}' needs {', '.join(missing)}, but a space gets channels, cells (if given), "
            f"{', '.join(gets)}. Give the others defaults."
        )
    sizes = {name: given.get(name, _default(build, name)) for name in _SIZES}
    return SpaceBuilder(text, build, known, given), sizes


def _typed(name: str, value: Any, annotation: Any) -> Any:
    """Return what was typed for a parameter, checked where its type is a plain one."""
    kinds: dict[str, Any] = {"int": int, "float": (int, float), "bool": bool, "str": str}
    expected = kinds.get(str(getattr(annotation, "__name__", annotation)))
    if expected is not None and (not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool)):
        raise OptionError(f"--space.{name.replace('_', '-')} takes {annotation}, but got {value!r}.")
    return tuple(value) if isinstance(value, list) else value


def _as_it_is(module: nn.Module) -> Callable[[], nn.Module]:
    return lambda: module


def _own(text: str) -> Any:
    place, _, name = text.rpartition(":")
    module = _run_file(Path(place)) if place.endswith(".py") else _import(place)
    if not hasattr(module, name):
        raise SpaceError(f"'{place}' has no '{name}'. Name a class or function that it defines at its top level.")
    found = getattr(module, name)
    if not callable(found):
        raise SpaceError(f"'{text}' must be a class or function, but it is of type {type(found).__name__}.")
    return found


def _run_file(path: Path) -> ModuleType:
    # A name of its own, the same in every process, so that a file called random.py takes the place of no module.
    digest = hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:16]
    name = f"_archgrad_space_{digest}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise SpaceError(f"The space's file '{path}' does not exist. Check the path.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # classes are looked up there when they are copied or pickled
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _import(name: str) -> ModuleType:
    with _working_folder():
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise SpaceError(f"The space's module '{name}' cannot be imported: {error}. Check its name.") from error


@contextmanager
def _working_folder() -> Iterator[None]:
    """Let modules be found in the working folder too, after all others, so that none there hides an installed one."""
    folder = str(Path.cwd())
    if "" in sys.path or folder in sys.path:
        yield
        return
    sys.path.append(folder)
    importlib.invalidate_caches()  # a file may be newer than the last look into the folder
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)
