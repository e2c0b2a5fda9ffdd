"""The space that a person names: a module, or the name of one that comes with archgrad."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from archgrad import spaces
from archgrad.data import Data
from archgrad.errors import SpaceError
from archgrad.json_text import shown
from archgrad.typed_names import name_of

__all__ = ["SPACES", "check_takes", "known_of", "space_of"]

SPACES: dict[str, Callable[..., nn.Module]] = {name_of(name): getattr(spaces, name) for name in spaces.__all__}
"""Those that come with archgrad, by the names as they are typed."""


def space_of(given: Any, data: Data) -> nn.Module:
    """Return the space itself, or build the one of a name for the classes and images of the data.

    Args:
        given: A module, or a name as in `archgrad spaces`.
        data: Tells classes, channels and size of the images.

    Raises:
        SpaceError: It is neither, or the named one is for images and the data has none.
    """
    if isinstance(given, nn.Module):
        return given
    if isinstance(given, type):
        raise SpaceError(f"The space must be a module, but got the class {given.__name__}. Give {given.__name__}(...).")
    if not isinstance(given, str):
        raise SpaceError(f"The space must be a torch.nn.Module or a name, but got {type(given).__name__}.")
    build = SPACES.get(given.replace("_", "-"))
    if build is None:
        near = difflib.get_close_matches(given, SPACES, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise SpaceError(
            f"There is no space {shown(given)}.{hint} Known are {', '.join(SPACES)}; of your own, give the module."
        )
    check_takes(given, data)
    parameters = inspect.signature(build).parameters
    return build(**{name: value for name, value in known_of(data).items() if name in parameters})


def check_takes(name: str, data: Data) -> None:
    """Raise SpaceError if a space that comes with archgrad cannot take the data; all of these are for images."""
    if not data.channels and name.replace("_", "-") in SPACES:
        raise SpaceError(
            f"The space '{name}' is for images, but the inputs of {shown(data.name)} are none. Give a space of your "
            f"own: a module, or FILE.py:NAME on the command line."
        )


def known_of(data: Data) -> dict[str, int]:
    """Return what data tells of the space that is to fit it: its parameters by name."""
    return {"num_classes": len(data.classes), "in_channels": data.channels, "image_size": data.image_size}
