"""Layers that take open numbers, and what they compute while the numbers are open.

Let a layer read the rows r of alphas, whose values have the mixing weights w_r, and let L_a be the plain layer with the
value a_r of each row, its output filled up with zeros to the widest. Relaxed, the layer computes

    y(x) = sum over a of (product over r of w_r[a_r]) L_a(x),

which is linear in each row, and L_a(x) where every row takes one value. All L_a share weights: those of the widest
layer, of which a narrow one has the first channels (see `archgrad.channel_blocks`) and a small kernel the centre.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from archgrad.errors import SpaceError
from archgrad.json_text import shown
from archgrad.nested_sum import weighted_sum
from archgrad.values import Number, Pick, Value, ValueChoice, choices_in, number_at

__all__ = ["Assignment", "ValuedLayer", "ValuedModule", "assignments", "every_pick"]

_MOST_PICKS = 20_000


class Assignment(NamedTuple):
    """A value of each of some choices, and its weight in a mixture."""

    pick: Pick
    weight: Tensor
    """0-dimensional, the product of the values' mixing weights."""


def assignments(choices: Sequence[ValueChoice]) -> list[Assignment]:
    """Return every combination of active values in the forward pass that is running; choices of one row go together.

    Args:
        choices: At least one.
    """
    mixtures = {choice.row: choice.mixture for choice in choices}
    scalars = {row: mixture.weights.unbind() for row, mixture in mixtures.items()}
    found = []
    for places in itertools.product(*(mixture.active for mixture in mixtures.values())):
        at = dict(zip(mixtures, places, strict=True))
        found.append(Assignment(_pick(at), math.prod(scalars[row][k] for row, k in at.items())))  # type: ignore[arg-type]
    return found


def _pick(at: Mapping[str, int]) -> Pick:
    return lambda choice: choice.values[at[choice.row]]


def every_pick(choices: Sequence[ValueChoice], where: str) -> list[Pick]:
    """Return every combination of values; choices that share a label go together.

    Raises:
        SpaceError: There are too many.
    """
    values = {choice.shared_by: choice.values for choice in choices}
    if (count := math.prod(map(len, values.values()))) > _MOST_PICKS:
        raise SpaceError(
            f"{where} reads {len(values)} value choices with {count} combinations, more than {_MOST_PICKS}. Give it "
            f"fewer of them, or fewer values."
        )

    def pick(combination: tuple[Number, ...]) -> Pick:
        at = dict(zip(values, combination, strict=True))
        return lambda choice: at[choice.shared_by]

    return [pick(combination) for combination in itertools.product(*values.values())]


class ValuedModule(nn.Module, ABC):
    """A module that reads open numbers. `derive` puts a plain one in its place.

    Args:
        numbers: By name of the argument: a number, an open one, or a tuple of them.
    """

    def __init__(self, numbers: Mapping[str, Any]) -> None:
        super().__init__()
        self.numbers = dict(numbers)
        self.choices = choices_in(tuple(self.numbers.values()))
        """The value choices that it reads, each instance once."""
        known: set[int] = set()
        for name, given in self.numbers.items():
            fresh = [choice for choice in choices_in(given) if id(choice) not in known]
            known.update(map(id, fresh))
            for place, choice in enumerate(fresh, start=1):
                self.add_module(name if place == 1 else f"{name}_{place}", choice)

    def number(self, name: str, pick: Pick) -> Any:
        """Return an argument where the choices take the values that `pick` says."""
        return number_at(self.numbers[name], pick)

    @abstractmethod
    def closed(self, pick: Pick, *, keep_weights: bool) -> nn.Module:
        """Return the plain module that is left where the choices take the values that `pick` says.

        Args:
            pick: Says the values.
            keep_weights: Take the part of the weights that it uses; else it has new ones, as such a module has that is
                built anew.
        """

    def inside(self, pick: Pick) -> Iterable[nn.Module]:
        """Return the modules in the closed one that may have choices of their own; by default none."""
        return ()

    def where(self, pick: Pick | None = None) -> str:
        """Return what messages call it, with the values that `pick` says."""
        shown_ = (f"{name}={_written(given, pick)}" for name, given in self.numbers.items() if choices_in(given))
        return f"{type(self).__name__}({', '.join(shown_)})"

    def mixed(self, outputs: Sequence[Any], found: Sequence[Assignment]) -> Any:
        """Return the mixture of what the module computes at each of the assignments."""
        weights = torch.stack([assignment.weight for assignment in found])
        names = [self.where(assignment.pick) for assignment in found]
        mixture = weighted_sum(
            outputs, weights, range(len(found)), lambda k: (f"{self.where()}", names[k].partition("(")[2][:-1])
        )
        return self.with_inactive(mixture)

    def with_inactive(self, output: Any) -> Any:
        """Return the output plus the weights, zero in value, of values that did not run, where they want a gradient."""
        mixtures = {choice.row: choice.mixture for choice in self.choices}
        offsets = [
            mixture.weights[k]
            for mixture in mixtures.values()
            if mixture.straight_through
            for k in range(mixture.slots.shape[1])
            if k not in mixture.active
        ]
        if not offsets:
            return output
        one = torch.ones((), dtype=offsets[0].dtype, device=offsets[0].device)
        return weighted_sum(
            [output], torch.stack([one, *offsets]), (0,), lambda k: (self.where(), "output"), straight_through=True
        )


def _written(given: Any, pick: Pick | None) -> str:
    if pick is not None:
        return str(number_at(given, pick))
    if isinstance(given, tuple | list):
        return f"({', '.join(_written(part, None) for part in given)})"
    return given.text() if isinstance(given, Value) else repr(given)


class _Skeletons:
    """The plain layers of a valued one, without weights, as far as they were needed; copies begin with nothing."""

    def __init__(self) -> None:
        self.built: dict[tuple[Any, ...], nn.Module] = {}

    def __reduce__(self) -> tuple[type[_Skeletons], tuple[()]]:
        return type(self), ()


class ValuedLayer(ValuedModule):
    """A layer of PyTorch of which some numbers are open.

    Args:
        kind: The layer's class.
        numbers: The arguments that may be open, by name; in the order in which `kind` takes them.
        options: Its other arguments.
    """

    def __init__(self, kind: type[nn.Module], numbers: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        super().__init__(numbers)
        for name, given in options.items():
            if choices_in(given):
                raise SpaceError(
                    f"{type(self).__name__} cannot have an open {name}, but got {name}={_written(given, None)}: "
                    f"what it computes with different values cannot be mixed by shared weights. Open may be "
                    f"{', '.join(numbers)}; for {name}, give a LayerChoice of whole layers."
                )
        self.kind = kind
        self.options = dict(options)
        self.skeletons = _Skeletons()
        picks = every_pick(self.choices, self.where())
        self.lay_out(picks)
        for pick in picks:
            self.skeleton(pick)
        self.layer: nn.Module = self.widest(picks)
        """The layer of PyTorch that has the weights."""

    multiplies = False
    """Whether the layer has multiply-adds."""

    def extra_repr(self) -> str:
        """Return the arguments as they were written."""
        given = {**self.numbers, **{name: value for name, value in self.options.items() if value is not None}}
        return ", ".join(f"{name}={_written(value, None)}" for name, value in given.items())

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError as error:
            layer = self.__dict__.get("_modules", {}).get("layer")
            if layer is None or not hasattr(layer, name):
                raise
            raise AttributeError(
                f"{error}, since its numbers may be open. The widest layer, whose weights all sizes share, is its "
                f"attribute layer: take layer.{name}."
            ) from None

    def lay_out(self, picks: Sequence[Pick]) -> None:
        """Work out where the parts of the narrow layers lie in the widest; SpaceError if that cannot be.

        Args:
            picks: Every way in which the choices may be closed.
        """

    @abstractmethod
    def widest(self, picks: Sequence[Pick]) -> nn.Module:
        """Return a new layer with the weights that all share."""

    def sliced(self, pick: Pick) -> dict[str, Tensor]:
        """Return the weights and buffers of a plain layer by name, as parts of those of the widest; by default none."""
        return {}

    def arguments(self, pick: Pick) -> dict[str, Any]:
        """Return the arguments of a plain layer."""
        return {**{name: _whole_if_even(self.number(name, pick)) for name in self.numbers}, **self.options}

    def skeleton(self, pick: Pick) -> nn.Module:
        """Return a plain layer without weights, always the same one for the same numbers.

        Raises:
            SpaceError: The layer does not take such numbers.
        """
        arguments = self.arguments(pick)
        key = tuple(arguments[name] for name in self.numbers)
        if key not in self.skeletons.built:
            try:
                with torch.device("meta"):
                    self.skeletons.built[key] = self.kind(**arguments)
            except (ValueError, TypeError, AssertionError, RuntimeError, ZeroDivisionError) as error:
                raise SpaceError(
                    f"{self.where()} cannot be built with {self.where(pick)}: {shown(str(error))}. Leave out such "
                    f"values, or compute one number from the other (2 * width)."
                ) from error
        return self.skeletons.built[key]

    def run(self, pick: Pick, *args: Any, **kwargs: Any) -> Any:
        """Return what the plain layer computes with its part of the weights, of inputs that have its channels."""
        layer = self.skeleton(pick)
        layer.train(self.training)
        return functional_call(layer, self.sliced(pick), args, kwargs)

    def closed(self, pick: Pick, *, keep_weights: bool) -> nn.Module:
        """Return the plain layer."""
        layer = self.kind(**self.arguments(pick))
        own = next(iter([*self.layer.parameters(), *self.layer.buffers()]), None)
        if own is not None:
            layer = layer.to(device=own.device, dtype=own.dtype if own.is_floating_point() else None)
        with torch.no_grad():
            if keep_weights:
                parts = self.sliced(pick)
                for name, tensor in [*layer.named_parameters(), *layer.named_buffers()]:
                    tensor.copy_(parts[name])
            else:
                for name, tensor in layer.named_parameters():
                    every = self.layer.get_parameter(name).flatten()
                    constant = every.numel() > 1 and not every.is_meta and bool((every == every[0]).all())
                    if constant:  # set on purpose, such as the scale of a norm that begins with 0
                        tensor.fill_(every[0])
        for name, parameter in self.layer.named_parameters():
            layer.get_parameter(name).requires_grad_(parameter.requires_grad)
        return layer.train(self.training)

    def forward(self, x: Tensor) -> Any:
        """Return the mixture of what the layer computes with each value."""
        if not self.choices:
            return self.layer(x)
        found = assignments(self.choices)
        return self.mixed([self.at(assignment.pick, x) for assignment in found], found)

    def at(self, pick: Pick, x: Tensor, **options: Any) -> Any:
        """Return what the plain layer computes of its part of `x`, filled up to the widest; by default of all."""
        return self.run(pick, x, **options)


def _whole_if_even(number: Any) -> Any:
    if isinstance(number, tuple):
        return tuple(map(_whole_if_even, number))
    return int(number) if isinstance(number, float) and number.is_integer() else number
