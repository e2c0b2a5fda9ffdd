"""The parts of a network that depend on choices, and what must be decided so that each is there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from archgrad.cell import Cell
from archgrad.choices import Choice, LayerChoice
from archgrad.repeat import Repeat
from archgrad.valued import ValuedLayer, ValuedModule
from archgrad.values import Number, ValueChoice

__all__ = ["At", "Condition", "Part", "PartFinder"]

At = Mapping[str, "int | None"]
"""Place of the candidate that each row takes; None, or no entry, where it takes none."""


@dataclass(frozen=True)
class Condition:
    """What must be decided so that a part is in the network."""

    rows: tuple[str, ...]
    holds: Callable[[At], bool]
    share: float = 1.0
    """Probability that the part is left when the rows decide so."""


@dataclass(frozen=True)
class Part:
    """A part of the network that depends on choices."""

    path: str
    rows: tuple[str, ...]
    costs: Tensor
    """Of the shape of the rows, float64; 0 where the part is left out."""
    share: float

    def mean(self, p: Mapping[str, Tensor]) -> Tensor:
        """Return the mean cost where each row takes its candidates with these probabilities."""
        mean = self.costs.to(p[self.rows[0]])
        for row in self.rows:
            mean = torch.tensordot(p[row], mean, dims=1)
        return self.share * mean

    def at(self, at: At) -> float:
        """Return the cost where the rows take these places."""
        places = [at.get(row) for row in self.rows]
        return 0.0 if None in places else float(self.costs[tuple(cast("list[int]", places))])


class PartFinder:
    """Finds the parts of a space that depend on choices.

    Args:
        labels: Of the choices, by identity.
    """

    def __init__(self, labels: Mapping[int, str]) -> None:
        self._labels = labels

    def find(
        self, module: nn.Module, path: str, conditions: tuple[Condition, ...]
    ) -> Iterator[tuple[str, nn.Module, tuple[Condition, ...]]]:
        """Yield (path, module, what must be decided so that it is there) of every part that depends on a choice.

        Args:
            module: Where to look.
            path: What it is called.
            conditions: What must be decided so that it is there.
        """
        if isinstance(module, ValuedLayer) and module.choices:
            yield path, module, conditions
        elif isinstance(module, Repeat):
            for number, block in enumerate(module.blocks):
                yield from self.find(block, f"{path}.{number}", (*conditions, self._deeper(module, number)))
        elif isinstance(module, Cell):
            label = self._labels[id(module)]
            for (source, node), edge in zip(module.pairs, module.edges, strict=True):
                kept = node if module.n_kept is None else min(module.n_kept, node)
                row = module.edge_label(label, source, node)
                yield from self._candidates(cast(LayerChoice, edge), row, path, conditions, kept / node)
        elif isinstance(module, LayerChoice):
            yield from self._candidates(module, self._labels[id(module)], path, conditions, 1.0)
        elif any(isinstance(part, Choice | ValuedModule) for part in module.modules()):
            for name, child in module.named_children():
                yield from self.find(child, f"{path}.{name}".lstrip("."), conditions)
        elif conditions:
            yield path, module, conditions

    def _candidates(
        self, choice: LayerChoice, row: str, path: str, conditions: tuple[Condition, ...], share: float
    ) -> Iterator[tuple[str, nn.Module, tuple[Condition, ...]]]:
        for k, name in enumerate(choice.names):
            taken = Condition((row,), lambda at, k=k: at.get(row) == k, share)  # type: ignore[misc]
            yield from self.find(choice.candidates[k], f"{row}={name}", (*conditions, taken))

    def _deeper(self, repeat: Repeat, number: int) -> Condition:
        def holds(at: At) -> bool:
            return repeat.depth_at(self.pick(at)) > number

        return Condition(tuple(dict.fromkeys(self._labels[id(choice)] for choice in repeat.choices)), holds)

    def pick(self, at: At) -> Callable[[ValueChoice], Number]:
        """Return which value each value choice takes."""
        return lambda choice: choice.values[cast(int, at[self._labels[id(choice)]])]
