"""Open numbers: a choice among values for a number that a layer takes, and arithmetic on such choices."""

from __future__ import annotations

import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeAlias

from torch import nn

from archgrad.checks import is_whole
from archgrad.choices import AlphaRow, Choice
from archgrad.errors import ArchitectureError, SpaceError
from archgrad.json_text import shown

__all__ = ["Arithmetic", "ChosenValue", "Number", "Pick", "Value", "ValueChoice", "choices_in", "number_at"]

Number: TypeAlias = "int | float"
Pick: TypeAlias = "Callable[[ValueChoice], Number]"
"""Says which value a choice takes."""

_OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
}


class Value(ABC):
    """A number that is open: a `ValueChoice`, or arithmetic on some (`2 * width`, `width // 4`, `a + b`)."""

    @abstractmethod
    def choices(self) -> tuple[ValueChoice, ...]:
        """Return the choices that the number depends on, each instance once, from left to right."""

    @abstractmethod
    def at(self, pick: Pick) -> Number:
        """Return the number where every choice takes the value that `pick` says."""

    @abstractmethod
    def text(self) -> str:
        """Return how a person would write it."""

    def addends(self) -> tuple[Value | Number, ...]:
        """Return the numbers whose sum this is as it was written; by default itself alone."""
        return (self,)

    def __add__(self, other: Value | Number) -> Arithmetic:
        return Arithmetic("+", self, other)

    def __radd__(self, other: Number) -> Arithmetic:
        return Arithmetic("+", other, self)

    def __sub__(self, other: Value | Number) -> Arithmetic:
        return Arithmetic("-", self, other)

    def __rsub__(self, other: Number) -> Arithmetic:
        return Arithmetic("-", other, self)

    def __mul__(self, other: Value | Number) -> Arithmetic:
        return Arithmetic("*", self, other)

    def __rmul__(self, other: Number) -> Arithmetic:
        return Arithmetic("*", other, self)

    def __truediv__(self, other: Value | Number) -> Arithmetic:
        return Arithmetic("/", self, other)

    def __rtruediv__(self, other: Number) -> Arithmetic:
        return Arithmetic("/", other, self)

    def __floordiv__(self, other: Value | Number) -> Arithmetic:
        return Arithmetic("//", self, other)

    def __rfloordiv__(self, other: Number) -> Arithmetic:
        return Arithmetic("//", other, self)

    def __mod__(self, other: Value | Number) -> Arithmetic:
        return Arithmetic("%", self, other)

    def __rmod__(self, other: Number) -> Arithmetic:
        return Arithmetic("%", other, self)

    def _is_open(self) -> NoReturn:
        raise SpaceError(
            f"{self.text()} is open, and no number yet. Give it to a layer of archgrad.nn, such as "
            f"archgrad.nn.Linear or archgrad.nn.Conv2d, to archgrad.Repeat, or, for use in forward, to "
            f"archgrad.nn.Scalar."
        )

    def __int__(self) -> int:
        self._is_open()

    def __float__(self) -> float:
        self._is_open()

    def __index__(self) -> int:
        self._is_open()

    def __bool__(self) -> bool:
        self._is_open()

    # Else `if width == 32` would always be false, where the network that is searched is written.

    def __eq__(self, other: object) -> bool:
        if isinstance(other, int | float):
            self._is_open()
        return self is other

    __hash__ = object.__hash__

    def _compared(self, other: object) -> bool:
        self._is_open()

    __lt__ = __le__ = __gt__ = __ge__ = _compared


class Arithmetic(Value):
    """Two numbers, of which at least one is open, joined by an operation.

    Args:
        sign: "+", "-", "*", "/", "//" or "%".
        left: What stands before the sign.
        right: What stands behind it.
    """

    def __init__(self, sign: str, left: Value | Number, right: Value | Number) -> None:
        for side in (left, right):
            if not isinstance(side, Value) and not _is_number(side):
                raise SpaceError(
                    f"Arithmetic on value choices takes numbers and value choices, but got {shown(side)} in "
                    f"'{_text(left)} {sign} {_text(right)}'."
                )
        self.sign, self.left, self.right = sign, left, right

    def choices(self) -> tuple[ValueChoice, ...]:
        """Return the choices of both sides."""
        return choices_in((self.left, self.right))

    def at(self, pick: Pick) -> Number:
        """Return the result of the operation; SpaceError if there is none, as for a division by zero."""
        left, right = number_at(self.left, pick), number_at(self.right, pick)
        try:
            return _OPERATIONS[self.sign](left, right)
        except ArithmeticError as error:
            raise SpaceError(f"{self.text()} cannot be computed: {left} {self.sign} {right} ({error}).") from None

    def text(self) -> str:
        """Return the operation with brackets around operations in it."""
        return f"{_text(self.left, inner=True)} {self.sign} {_text(self.right, inner=True)}"

    def addends(self) -> tuple[Value | Number, ...]:
        """Return the addends of both sides of a sum."""
        if self.sign != "+":
            return (self,)
        sides = (self.left, self.right)
        return tuple(part for side in sides for part in (side.addends() if isinstance(side, Value) else (side,)))

    __repr__ = text


class ValueChoice(Choice, Value):
    """One of several values for a number that layers take: kernel size, channels, expansion, dropout, ...

    It is given to layers of `archgrad.nn` and to `archgrad.Repeat` in the place of the number, also in arithmetic, and
    to as many as should have the same value. It has one row of alphas. Relaxed, each layer computes the mixture of what
    it would compute with each value (see `archgrad.valued`).

    Args:
        values: Different finite numbers, at least one.
        label: See `LayerChoice`.
    """

    def __init__(self, values: Sequence[Number], label: str | None = None) -> None:
        super().__init__(label)
        where = f"ValueChoice(label={label!r})"
        given = list(values) if isinstance(values, Sequence) and not isinstance(values, str) else None
        if not given:
            raise SpaceError(f"{where} needs a sequence of at least one number, but got {shown(values)}.")
        for value in given:
            if not _is_number(value):
                raise SpaceError(f"{where} needs finite numbers, but got {shown(value)}.")
        if len(set(given)) < len(given):
            raise SpaceError(f"{where} needs different numbers, but got {shown(given)}. Leave out what is repeated.")
        self.values: tuple[Number, ...] = tuple(given)

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        return f"{list(self.values)}, label={self.label!r}"

    def choices(self) -> tuple[ValueChoice, ...]:
        """Return itself."""
        return (self,)

    def at(self, pick: Pick) -> Number:
        """Return the value that it takes."""
        return pick(self)

    def text(self) -> str:
        """Return its label, or its values."""
        return self.label or f"ValueChoice({list(self.values)})"

    @property
    def row(self) -> str:
        """The row of alphas in the forward pass that is running."""
        return self._row or self.text()

    @property
    def shared_by(self) -> object:
        """What is equal for choices that always take the same value."""
        return self.label or id(self)

    def rows(self, label: str) -> dict[str, AlphaRow]:
        """Return one row over the values, which are called as they are written in Python."""
        return {label: AlphaRow(tuple(map(repr, self.values)))}

    def decide(self, label: str, probabilities: Mapping[str, Sequence[float]]) -> Number:
        """Return the likeliest value; of equals the first."""
        row = probabilities[label]
        return self.values[max(range(len(row)), key=lambda k: row[k])]

    def value(self, label: str, decision: Any) -> Number:
        """Return the value that equals `decision`.

        Raises:
            ArchitectureError: There is none.
        """
        if not _is_number(decision) or decision not in self.values:
            raise ArchitectureError(
                f"Choice '{label}' has no value {decision!r}. Its values are {', '.join(map(repr, self.values))}."
            )
        return self.values[self.values.index(decision)]

    def fix(self, label: str, decision: Any) -> ChosenValue:
        """Return a module that holds the value."""
        return ChosenValue(self.value(label, decision))

    def forward(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise SpaceError: a number cannot be run."""
        self._is_open()


class ChosenValue(nn.Module):
    """What is left of an open number in a derived network: calling it returns the number."""

    def __init__(self, value: Number) -> None:
        super().__init__()
        self.value = value

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        return repr(self.value)

    def forward(self) -> Number:
        """Return the number."""
        return self.value


def _is_number(value: Any) -> bool:
    return is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def _text(value: Value | Number, *, inner: bool = False) -> str:
    if not isinstance(value, Value):
        return repr(value)
    return f"({value.text()})" if inner and isinstance(value, Arithmetic) else value.text()


def choices_in(given: Any) -> tuple[ValueChoice, ...]:
    """Return the value choices in a number or a tuple of numbers, each instance once, from left to right."""
    if isinstance(given, Value):
        return given.choices()
    if isinstance(given, tuple | list):
        return tuple({id(choice): choice for part in given for choice in choices_in(part)}.values())
    return ()


def number_at(given: Any, pick: Pick) -> Any:
    """Return a number, or a tuple of numbers, with every choice at its value; anything else as it is."""
    if isinstance(given, Value):
        return given.at(pick)
    if isinstance(given, tuple | list):
        return tuple(number_at(part, pick) for part in given)
    return given
