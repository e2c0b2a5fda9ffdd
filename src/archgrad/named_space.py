"""The space that a person names: a module, or what builds one that fits the data."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import nn

from archgrad import spaces
from archgrad.data import Data
from archgrad.errors import OptionError, SpaceError, did_you_mean
from archgrad.json_text import shown
from archgrad.typed_names import name_of

__all__ = ["SPACES", "SpaceBuilder", "check_takes", "known_of", "missing", "space_of"]

SPACES: dict[str, Callable[..., nn.Module]] = {name_of(name): getattr(spaces, name) for name in spaces.NAMED}
"""Those that come with archgrad, by the names as they are typed."""


@dataclass(frozen=True)
class SpaceBuilder:
    """Builds a space, as often as it is asked to."""

    name: str
    """For messages."""
    build: Callable[..., Any]
    """A function or class."""
    known: Mapping[str, Any]
    """Options that fit the space to its data and use."""
    given: Mapping[str, Any]
    """Options that a person has set."""

    def __call__(self, **options: Any) -> nn.Module:
        """Return a new space.

        Args:
            options: In the place of those that are known or given.

        Raises:
            SpaceError: What is built is no module.
        """
        space = self.build(**{**self.known, **self.given, **options})
        if not isinstance(space, nn.Module):
            raise SpaceError(
                f"The space '{self.name}' must be or return a torch.nn.Module, but gave {type(space).__name__}."
            )
        return space

    def check_options(self, options: Mapping[str, Any], *, first: bool) -> None:
        """Check that there are such options.

        Args:
            options: Of a stage.
            first: Whether it is the first, so that what is given would never be used.

        Raises:
            OptionError: There is none of a name, or it contradicts what is given.
        """
        parameters = inspect.signature(self.build).parameters
        anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        for name, value in options.items():
            if name not in parameters and not anything:
                having = [space for space, build in SPACES.items() if name in inspect.signature(build).parameters]
                raise OptionError(
                    f"A stage of the method sets {name}={shown(value)} of the space, but '{self.name}' has no such "
                    f"option. It has {', '.join(parameters) or 'none'}. {_without(having)}"
                )
            if first and name in self.given and self.given[name] != value:
                raise OptionError(
                    f"{name}={shown(self.given[name])} of the space contradicts the method, whose first stage has "
                    f"{name}={shown(value)}. Leave it out, or give other stages."
                )


def _without(having: Collection[str]) -> str:
    """Return what to do where a method cannot build the space as it needs it."""
    such = f"a space that has it, such as {', '.join(having)}, or " if having else ""
    return f"Take {such}a method that searches any space as it is, such as darts, gdas or drnas."


def space_of(given: Any, data: Data, *, outputs: int = 0) -> nn.Module | SpaceBuilder:
    """Return the space itself, or what builds the one of a name, function or class for the data.

    Args:
        given: A module, a name as in `archgrad spaces`, or a function or class that returns a module; it is given what
            `known_of` the data it has parameters for.
        data: Tells classes, channels and size of the images.
        outputs: How many classes, labels or values there are, where the data does not tell.

    Raises:
        SpaceError: It is none of these, or the named one is for images and the data has none.
    """
    if isinstance(given, nn.Module | SpaceBuilder):
        return given
    if not isinstance(given, str):
        return _builder_of(given, data, outputs)
    build = SPACES.get(given.replace("_", "-"))
    if build is None:
        hint = did_you_mean(given, SPACES)
        raise SpaceError(
            f"There is no space {shown(given)}.{hint} Known are {', '.join(SPACES)}; of your own, give the module."
        )
    check_takes(given, data)
    return SpaceBuilder(given, build, _fitting(build, data, outputs), {})


def _builder_of(given: Any, data: Data, outputs: int) -> SpaceBuilder:
    if not callable(given):
        raise SpaceError(f"The space must be a torch.nn.Module or a name, but got {type(given).__name__}.")
    bound = dict(given.keywords) if isinstance(given, functools.partial) else {}
    known = _fitting(given, data, outputs)
    name = getattr(given, "__name__", type(given).__name__)
    needed = missing(inspect.signature(given).parameters, known)
    if needed:
        kind = "class" if isinstance(given, type) else "function"
        told = ", ".join(known_of(data, outputs)) or "nothing"
        raise SpaceError(
            f"The space must be a module, or built from {told} alone, which is what {shown(data.name)} tells, but got "
            f"the {kind} {name}. "
            f"Give {name}(...), or functools.partial with {', '.join(needed)}."
        )
    return SpaceBuilder(name, given, {key: value for key, value in known.items() if key not in bound}, bound)


def _fitting(build: Callable[..., Any], data: Data, outputs: int) -> dict[str, int]:
    parameters = inspect.signature(build).parameters
    return {name: value for name, value in known_of(data, outputs).items() if name in parameters}


_INPUTS = {"in_features": "vectors", "sensors": "series (sensors, time)", "in_channels": "images"}
"""What inputs a space is for that has such a parameter."""


def check_takes(name: str, data: Data, options: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Raise SpaceError if a space that comes with archgrad cannot take inputs such as those of the data.

    Args:
        name: Of the space; others are not checked.
        data: Tells of what kind its inputs are.
        options: That the space is given: with a vocabulary, it is for sequences of whole numbers.
    """
    build = SPACES.get(name.replace("_", "-"))
    if build is None:
        return
    known, parameters = known_of(data), inspect.signature(build).parameters
    own = next((kind for kind in _INPUTS if kind in known), None)
    wanted = None if options.get("vocabulary") else next(kind for kind in _INPUTS if kind in parameters)
    if own == wanted:
        return
    tokens = "sequences of whole numbers"
    hint = f" with a vocabulary (--space.vocabulary) for {tokens}," if wanted and "vocabulary" in parameters else ""
    others = ", ".join(each for each, other in SPACES.items() if own in inspect.signature(other).parameters)
    remedy = f", which are {_INPUTS[own]}: take {others}, or" if own else ". Give"
    raise SpaceError(
        f"The space '{name}' is for {_INPUTS[wanted] if wanted else tokens},{hint} and not for the inputs of "
        f"{shown(data.name)}{remedy} a space of your own, a module, or FILE.py:NAME on the command line."
    )


def known_of(data: Data, outputs: int = 0) -> dict[str, int]:
    """Return what data tells of the space that is to fit it: its parameters by name.

    Data of values tells no classes; inputs tell what they are: images (C, H, W) channels and size, vectors (F,) their
    length, series (sensors, time) the sensors. What a network gives out is called `num_classes` whatever it learns.
    """
    known = {"num_classes": outputs or len(data.classes), "in_channels": data.channels, "image_size": data.image_size}
    known |= {"in_features": data.in_features, "sensors": data.sensors}
    return {name: value for name, value in known.items() if value}


def missing(parameters: Mapping[str, inspect.Parameter], given: Collection[str]) -> list[str]:
    """Return the parameters that must be given and are not."""
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [
        name
        for name, parameter in parameters.items()
        if name not in given and parameter.default is parameter.empty and parameter.kind not in several
    ]
