"""What the networks of a space cost by the table of a benchmark: in the mean over the alphas, with a gradient.

A table has the cost c(a) of each network a as a whole. The rows of alphas decide independently, so that the mean is the
sum over all a of p_1[a_1] p_2[a_2] ... c(a), with the expected weights p of the relaxation: exact, and linear in each
row. Of NAS-Bench-201 these are 15,625 numbers, of NAS-Bench-Macro 6,561.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from archgrad.architecture import Architecture, as_architecture
from archgrad.cost_parts import Part
from archgrad.decision import taken_candidates
from archgrad.discretize import decide
from archgrad.errors import OptionError
from archgrad.expected_cost import CostRange
from archgrad.labels import LabelledChoice, alpha_rows, open_choices
from archgrad.nasbench import Table, parse_arch, unit_of
from archgrad.supernet import Supernet

__all__ = ["TableCost", "column_of", "is_decided"]

_DRAWN = 101
"""Networks that are drawn for the median."""
_WHOLE = "the whole network, by the table"


def column_of(cost: str, table: Table) -> str | None:
    """Return the column of a table that has a cost, "multiply-adds" in the column `multiply_adds`; None if none has."""
    column = cost.replace("-", "_")
    return column if column in table.columns and unit_of(column) != "%" else None


def is_decided(network: nn.Module, choices: Sequence[LabelledChoice], architecture: Architecture) -> bool:
    """Return whether a space can decide so; not where a rule of its leaves a network out, as of cells without a path.

    Args:
        network: The space; stays as it is.
        choices: Its choices.
        architecture: Of the same rows.
    """
    taken = taken_candidates(architecture.choices)
    rows = alpha_rows(list(choices))
    scores = {label: [float(name in taken.get(label, ())) for name in row.names] for label, row in rows.items()}
    return taken_candidates(Architecture(decide(network, choices, scores)).choices) == taken


class TableCost:
    """What the networks of a space cost, by a column of a table.

    Args:
        space: A module with open choices, or a `Supernet`; stays as it is.
        table: Has every network of the space.
        cost: "multiply-adds" or "parameters", or a column whose name ends with _ms or _mj.

    Raises:
        OptionError: The table has no such column, or does not have the cost of every network of the space.
    """

    def __init__(self, space: nn.Module, table: Table, cost: str) -> None:
        column = column_of(cost, table)
        if column is None:
            known = ", ".join(name for name in table.columns if unit_of(name) != "%") or "none"
            raise OptionError(f"The table has no cost {cost!r}. It has {known}.")
        self.cost = cost
        network = space.network if isinstance(space, Supernet) else space
        choices = space.choices if isinstance(space, Supernet) else open_choices(space)
        self.rows = alpha_rows(list(choices))
        """The rows of alphas, by label."""
        self._part = Part(_WHOLE, tuple(self.rows), self._read(table, column), 1.0)
        self._range = self._ranged(network, choices, table, column)

    def _read(self, table: Table, column: str) -> Tensor:
        """Return the costs of all networks, one dimension a row of alphas."""
        costs = torch.full([len(row.names) for row in self.rows.values()], torch.nan, dtype=torch.float64)
        place = table.columns.index(column)
        for arch, (_, values) in table.rows.items():
            costs[self._places(parse_arch(arch))] = values[place]
        missing = int(costs.isnan().sum())
        if missing:
            raise OptionError(
                f"The table has no {column} of {missing:,} of the {costs.numel():,} networks of the space, but a mean "
                f"over all has a gradient only where all are known. Take another column, or the complete table."
            )
        return costs

    def _places(self, architecture: Architecture) -> tuple[int, ...]:
        taken = taken_candidates(architecture.choices)
        try:
            if set(taken) != set(self.rows):
                raise ValueError
            return tuple(row.names.index(name) for label, row in self.rows.items() for name in taken[label])
        except ValueError:
            raise OptionError(
                f"The table knows networks of the space {architecture.space}, which decide "
                f"{', '.join(taken)}, but this space decides {', '.join(self.rows)}. Search that space, or leave "
                f"cost_table out."
            ) from None

    def _ranged(self, network: nn.Module, choices: Sequence[LabelledChoice], table: Table, column: str) -> CostRange:
        place, generator = table.columns.index(column), torch.Generator().manual_seed(0)
        ascending = sorted(table.rows, key=lambda arch: table.rows[arch][1][place])

        def first(archs: Iterable[str]) -> float:
            found = (parse_arch(arch) for arch in archs)
            return self.of(next(each for each in found if is_decided(network, choices, each)))

        drawn = []
        for _ in range(_DRAWN):
            scores = {label: torch.rand(len(r.names), generator=generator).tolist() for label, r in self.rows.items()}
            drawn.append(self.of(Architecture(decide(network, choices, scores))))
        return CostRange(first(ascending), sorted(drawn)[_DRAWN // 2], first(reversed(ascending)))

    def mean(self, probabilities: Mapping[str, Tensor]) -> Tensor:
        """Return the mean cost where each row takes its candidates with these probabilities, (K,) each, by label."""
        return self._part.mean(probabilities)

    def of(self, architecture: Architecture | Any) -> float:
        """Return what the table has of an architecture of the space."""
        return float(self._part.costs[self._places(as_architecture(architecture))])

    def where(self, architecture: Architecture | Any) -> dict[str, float]:
        """Return the cost of the whole network; of its parts a table tells nothing."""
        return {_WHOLE: self.of(architecture)}

    def range(self) -> CostRange:
        """Return the costs of the smallest, the median and the largest network.

        The median is of networks that are drawn with every candidate equally likely.
        """
        return self._range
