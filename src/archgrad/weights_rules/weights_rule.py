"""What a rule of the weights' gradient must answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

from torch import Tensor

from archgrad.relaxation import Relaxation
from archgrad.schedules import Progress

__all__ = ["Gradients", "RuleResult", "WeightsPass", "WeightsRule"]

Gradients: TypeAlias = dict[str, Tensor | None]
"""By the name of the weight; a weight without gradient stays as it is, whatever its decay and momentum."""


@dataclass(frozen=True)
class WeightsPass:
    """The pass of the training batch, which is over."""

    gradients: Gradients
    """Of the training loss, or what an earlier rule made of them; not clipped."""
    loss: Tensor
    """Training loss, 0-dimensional."""
    progress: Progress | None
    """How far the search is; None where nobody said."""
    layers: Mapping[str, Tensor] = field(default_factory=dict)
    """For a rule that `looks_at_layers`: the gradient of the training loss with respect to the mixing weights of each
    choice of those that decide together, (choices, weights), by their label."""
    along_layers: Callable[[Mapping[str, Tensor]], Gradients] | None = None
    """For such a rule: returns the weights' gradients of the same batch with those mixing weights moved by tensors that
    are shaped as `layers`; those that are left out stay."""
    valid: Gradients | None = None
    """For a rule that `looks_at_valid`: the weights' gradients of the validation loss, of the alphas' pass of the same
    step; None where the alphas wait."""
    owners: Mapping[str, str] = field(default_factory=dict)
    """For such a rule: name of the weight -> name of the candidate that it belongs to, if it belongs to one."""
    memory: Mapping[str, Tensor] = field(default_factory=dict)
    """What the rule gave as its memory in the step before, part of a checkpoint; empty at first."""


class RuleResult(NamedTuple):
    """What a rule makes of a pass."""

    gradients: Gradients
    """Of every weight; None leaves it as it is."""
    figures: Mapping[str, Tensor]
    """For metrics.csv: name -> 0-dimensional, the same names every time."""
    memory: Mapping[str, Tensor] = MappingProxyType({})
    """What the rule is to be given in the next step."""


class WeightsRule(ABC):
    """Changes the gradient that the weights' optimizer is given, before it is clipped.

    A subclass is a frozen dataclass of options; what it must know of earlier steps is in its memory.
    """

    looks_at_layers = False
    """Whether it needs the gradient of each layer's own mixing weights."""

    looks_at_valid = False
    """Whether it needs the gradient of the validation loss, which the alphas' pass of `FirstOrder` can give."""

    def check(self, relaxation: Relaxation) -> None:
        """Raise OptionError if it does not go with the relaxation."""

    def check_layers(self, labels: Collection[str]) -> None:
        """Raise OptionError if it does not go with a space where several choices each have these labels."""

    def widened(
        self, memory: Mapping[str, Tensor], before: Mapping[str, str], after: Mapping[str, str]
    ) -> Mapping[str, Tensor]:
        """Return what it remembers when the network goes on as a larger one; by default the same.

        Args:
            memory: What it gave last.
            before: Owners of the weights until now (see `WeightsPass.owners`).
            after: Those of the larger network, which may have more.
        """
        return memory

    @abstractmethod
    def apply(self, training: WeightsPass) -> RuleResult:
        """Return the gradients to use, and figures.

        Args:
            training: Stays as it is.
        """
