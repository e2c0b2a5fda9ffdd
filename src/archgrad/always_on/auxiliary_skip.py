"""The auxiliary skip connection of DARTS-."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from archgrad.always_on.always_on import AlwaysOn
from archgrad.choices import LayerChoice
from archgrad.copying import copied
from archgrad.operations import is_skip
from archgrad.schedules import Linear, Number, check_number

__all__ = ["AuxiliarySkip"]


@dataclass(frozen=True)
class AuxiliarySkip(AlwaysOn):
    """A second skip connection beside the candidates of every choice that has one, of the same kind, with a weight.

    It takes over what skip connections do for training, so that the candidate competes by what it is worth as an
    operation. Where the candidate has weights, as on an edge of stride 2, the second one has its own.

    Source: Chu et al. 2021 (DARTS-), eq. 4 and the linear decay; their code also has `Cosine(1.0, 0.0)`.
    """

    weight: Number = field(default=Linear(1.0, 0.0, "end"))
    """Factor of the connection, at least 0: a number or a schedule."""

    def __post_init__(self) -> None:
        check_number("weight", self.weight, least=0.0)

    def module(self, choice: LayerChoice) -> nn.Module | None:
        """Return a copy of the candidate that is a skip connection by its name, with new weights."""
        skip = next((choice[name] for name in choice if is_skip(name)), None)
        found = None if skip is None else copied(skip)
        for part in found.modules() if found is not None else ():
            if callable(reset := getattr(part, "reset_parameters", None)):
                reset()
        return found
