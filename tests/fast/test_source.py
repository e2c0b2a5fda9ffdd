"""What code is read to do: calls of parts in any nesting are known, names with another meaning are not."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archgrad.fast.source import read_module


class Parts(nn.Module):
    """Parts to call, of several depths."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.ReLU()
        self.row = nn.ModuleList([nn.ReLU(), nn.ReLU()])
        self.table = nn.ModuleList([nn.ModuleList([nn.ReLU()]), nn.ModuleList([nn.ReLU()])])
        self.by_name = nn.ModuleDict({"a": nn.ReLU()})


class Nested(Parts):
    def forward(self, x: Tensor) -> Tensor:
        states = [x]
        for node in self.table:
            states.append(sum(edge(state) for edge, state in zip(node, states, strict=False)))
        return torch.cat(states, dim=1)


class ByNumber(Parts):
    def forward(self, x: Tensor) -> Tensor:
        for i in range(len(self.row)):
            x = self.row[i](x) + self.by_name["a"](x)
        for node in self.table:
            x = node[0](x)
        return torch.nn.functional.relu(x) * math.sqrt(2)


class Plain(Parts):
    def forward(self, x: Tensor) -> Tensor:
        kept = [x]
        kept.append(F.relu(self.part(x)).mean(0))
        return kept[-1]


@pytest.mark.parametrize("kind", [Nested, ByNumber, Plain])
def test_known_calls(kind: type[nn.Module]) -> None:
    reading = read_module(kind(), kind)
    assert reading is not None
    assert not reading.tells_formats_apart
    assert not reading.writes_in_place
    assert not reading.reaches_beyond


def _twice(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @functools.wraps(function)
    def twice(self: nn.Module, x: Tensor) -> Tensor:
        return function(self, function(self, x))

    return twice


class Wrapped(Parts):
    def forward(self, x: Tensor) -> Tensor:
        return self.part(x)

    forward_once = forward
    forward = _twice(forward)


class OneOfTheNames(Parts):
    def forward(self, x: Tensor) -> Tensor:
        for part in self.row:
            x = part(x)
        for part in [torch.special.erf]:
            x = part(x)
        return x


class NotAContainer(Parts):
    def forward(self, x: Tensor) -> Tensor:
        for node in self.row:
            for part in node:
                x = part(x)
        return x


class Builtin(Parts):
    def forward(self, x: Tensor) -> Tensor:
        max = self.part
        return max(x)


class OtherModule(Parts):
    def forward(self, x: Tensor) -> Tensor:
        return numbers.add(x)


class Operators(Parts):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.aten.relu(x)


def _in_a_function(sum: Callable[[Tensor], Tensor]) -> type[nn.Module]:
    class Closure(Parts):
        def forward(self, x: Tensor) -> Tensor:
            return sum(x)

    return Closure


class numbers:  # noqa: N801
    """Stands for a module with a name that tensors have, too."""

    @staticmethod
    def add(x: Tensor) -> Tensor:
        return x + 1


OTHERS = [Wrapped, OneOfTheNames, NotAContainer, Builtin, OtherModule, Operators, _in_a_function(torch.relu)]


@pytest.mark.parametrize("kind", OTHERS, ids=lambda kind: kind.__name__)
def test_names_with_another_meaning(kind: type[nn.Module]) -> None:
    reading = read_module(kind(), kind)
    assert reading is None or reading.tells_formats_apart


class Keeps(Parts):
    def forward(self, x: Tensor) -> Tensor:
        self.kept = x
        return self.part(x)


class Appends(Parts):
    def forward(self, x: Tensor) -> Tensor:
        kept = self.outputs
        kept.append(x)
        return self.part(x)


class AppendsToAnArgument(Parts):
    def forward(self, x: Tensor, states: list[Tensor]) -> Tensor:
        states.append(x)
        return self.part(x)


class SetsAPart(Parts):
    def forward(self, x: Tensor) -> Tensor:
        self.part.momentum = 0.5
        return self.part(x)


class ReadsStatistics(Parts):
    def forward(self, x: Tensor) -> Tensor:
        return x * self.part.running_mean.sum()


@pytest.mark.parametrize("kind", [Keeps, Appends, AppendsToAnArgument, SetsAPart, ReadsStatistics])
def test_what_reaches_beyond_a_call(kind: type[nn.Module]) -> None:
    reading = read_module(kind(), kind)
    assert reading is None or reading.reaches_beyond
