"""What an always-on candidate must answer."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import nn

from archgrad.choices import Choice, LayerChoice
from archgrad.errors import OptionError, SpaceError
from archgrad.labels import LabelledChoice
from archgrad.schedules import Number

__all__ = ["AlwaysOn", "put_beside"]


class AlwaysOn(ABC):
    """Adds to layer choices a module that runs in every pass, with a weight of its own beside those of the candidates.

    The module learns with the weights of the supernet. It has no alpha and is never derived.

    A subclass is a dataclass with a field `weight`.
    """

    weight: Number
    """Factor of the module's output; a number or a schedule."""

    @abstractmethod
    def module(self, choice: LayerChoice) -> nn.Module | None:
        """Return a new module that takes what the candidates take and returns what they return; None for no module.

        Choices of equal candidates must all get one, or none.

        Args:
            choice: An edge of a cell, or a layer choice elsewhere; stays as it is.
        """


def put_beside(always_on: AlwaysOn, choices: list[LabelledChoice]) -> list[str]:
    """Give the layer choices of a space what always runs.

    Args:
        always_on: Makes it.
        choices: Changed in place.

    Returns:
        The rows of alphas of the choices that got a module.

    Raises:
        OptionError: No choice got one.
        SpaceError: A module has open choices itself.
    """
    found: list[str] = []
    for entry in choices:
        for label, choice in entry.choice.layer_choices(entry.label).items():
            module = always_on.module(choice)
            if module is None:
                continue
            if any(isinstance(part, Choice) for part in module.modules()):
                raise SpaceError(
                    f"What always runs on '{label}' must have no open choices, but {type(always_on).__name__} gives "
                    f"one that has. Leave always_on out."
                )
            choice.candidates.append(module)
            found.append(label)
    if not found:
        raise OptionError(
            f"{type(always_on).__name__} finds no choice to stand beside in this space. Leave always_on out, or give a "
            f"choice the candidate that it looks for."
        )
    return list(dict.fromkeys(found))
