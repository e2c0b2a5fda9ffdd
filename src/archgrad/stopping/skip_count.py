"""The stopping rule of DARTS+."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from archgrad.architecture import Architecture
from archgrad.decision import Edge
from archgrad.epoch_end import EpochEnd
from archgrad.errors import OptionError
from archgrad.operations import is_skip
from archgrad.stopping.stopping import Stop, Stopping

__all__ = ["SkipCount", "kept_operations"]

_COLUMN = "most_skips"


@dataclass(frozen=True)
class SkipCount(Stopping):
    """Stop when a cell of the present architecture keeps `limit` skip connections.

    Layer choices outside cells count together, as one cell.

    Source: Liang et al. 2019 (DARTS+), criterion 1, which looks at the normal cell.
    """

    limit: int = 2
    """Skip connections that end the search, at least 1."""
    label: str = ""
    """Part of the label of the cells that are looked at, such as "normal"; empty looks at all."""

    def __post_init__(self) -> None:
        if isinstance(self.limit, bool) or not isinstance(self.limit, int) or self.limit < 1:
            raise OptionError(f"limit must be a whole number of at least 1, but got limit={self.limit!r}.")

    def probe(self, end: EpochEnd) -> Mapping[str, float | None]:
        """Count the skip connections of the cell that has most, by the names of the operations."""
        cells: dict[str, int] = {}
        for label, names in kept_operations(end.architecture).items():
            if self.label in label:
                cell = label if isinstance(end.architecture.choices[label], Mapping) else ""
                cells[cell] = cells.get(cell, 0) + sum(map(is_skip, names))
        return {_COLUMN: max(cells.values(), default=0)}

    def decide(self, history: Sequence[Mapping[str, Any]]) -> Stop | None:
        """Stop at the first epoch whose architecture has too many."""
        if not history or int(history[-1][_COLUMN]) < self.limit:
            return None
        epoch = int(history[-1]["epoch"])
        return Stop(epoch, f"a cell keeps {int(history[-1][_COLUMN])} skip connections (limit {self.limit})")


def kept_operations(architecture: Architecture) -> dict[str, list[str]]:
    """Return the operations that each layer choice or cell keeps, by label."""
    kept: dict[str, list[str]] = {}
    for label, decision in architecture.choices.items():
        if isinstance(decision, str):
            kept[label] = [decision]
        elif isinstance(decision, Mapping):
            kept[label] = [e.operation for edges in decision.values() for e in edges if isinstance(e, Edge)]
    return kept
