"""Budgets in columns of a table: which networks keep them, random ones that do, and the front of all networks."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping
from dataclasses import dataclass

from archgrad.architecture import Architecture
from archgrad.labels import open_choices
from archgrad.named_space import SPACES
from archgrad.nasbench import Table, load_table, parse_arch
from archgrad.regularizers import budgets_of
from archgrad.study.columns import columns_of, is_cost, place_of_column
from archgrad.study.place import Place
from archgrad.study.study_file import Study
from archgrad.table_cost import column_of, is_decided

__all__ = ["Limits", "TableFront", "fronts_of", "limits_of", "random_within"]


@dataclass(frozen=True)
class Limits:
    """A budget in columns of a table."""

    table: Table
    """Of the costs."""
    most: Mapping[str, float]
    """Column -> most that a network may cost; empty without a budget."""

    def over(self, arch: str) -> float:
        """Return by how much a network is above the budget, as a share of it: at most 0 where it keeps it.

        Args:
            arch: The network as the table writes it.
        """
        values = self.table.rows[arch][1]
        return max(values[self.table.columns.index(column)] / most - 1.0 for column, most in self.most.items())

    def best(self, judge: Table, column: str) -> float | None:
        """Return the best accuracy of all networks that keep the budget; None where none does.

        Args:
            judge: Has the accuracies.
            column: Which.
        """
        place = judge.columns.index(column)
        kept = (arch for arch in judge.rows if not self.most or (arch in self.table.rows and self.over(arch) <= 0))
        return max((judge.rows[arch][1][place] for arch in kept), default=None)


@dataclass(frozen=True, kw_only=True)
class TableFront(Place):
    """The networks of a table than which no other costs less and scores as well or better.

    Attributes:
        cost: What they cost, as axes call it.
        costs: Of each, ascending.
        scores: Of each, in the place's unit.
    """

    cost: str
    costs: tuple[float, ...]
    scores: tuple[float, ...]

    def best_at(self, cost: float) -> float | None:
        """Return the best score of networks that cost no more; None where all cost more."""
        return max((score for spent, score in zip(self.costs, self.scores, strict=True) if spent <= cost), default=None)


def limits_of(study: Study) -> dict[str, Limits]:
    """Return by their texts the budgets that the `cost_table` of a study tells of, and no budget, which is "".

    Raises:
        DataError: The table cannot be read.
    """
    table = Table(columns=(), rows={}, ascending=()) if study.cost_table is None else load_table(study.cost_table)
    found = {"": Limits(table, {})}
    for text in study.budgets:
        budgets = budgets_of(text)
        columns = [(column_of(budget.cost, table), budget.limit) for budget in budgets]
        most = {column: limit for column, limit in columns if column is not None}
        if len(most) == len(budgets):
            found[text] = Limits(table, most)
    return found


def random_within(space: str, limits: Limits, *, count: int, seed: int) -> list[Architecture]:
    """Return networks drawn from those that keep a budget, each as likely and none twice; fewer where there are few.

    Args:
        space: Name of the space; what it cannot decide, such as cells without a path, is not drawn.
        limits: The budget.
        count: How many.
        seed: Of the draws.
    """
    network = SPACES[space]()
    choices = open_choices(network)
    kept = sorted(arch for arch in limits.table.rows if limits.over(arch) <= 0)
    random.Random(seed).shuffle(kept)
    within = (architecture for architecture in map(parse_arch, kept) if is_decided(network, choices, architecture))
    return list(itertools.islice(within, count))


def fronts_of(study: Study) -> list[TableFront]:
    """Return the front of all networks of the tables that judge, for each accuracy over each cost that they judge by.

    Raises:
        DataError: A table cannot be read.
    """
    scores: dict[str, dict[str, float]] = {}
    costs: dict[str, dict[str, float]] = {}
    places = {}
    for judge in study.judges:
        if judge.table is not None:
            table = load_table(judge.table)
            for column in columns_of(judge, table):
                k = table.columns.index(column)
                places[column] = place_of_column(judge, column)
                values = {arch: row[k] for arch, (_, row) in table.rows.items() if row[k] >= 0}  # what was measured
                (costs if is_cost(column) else scores)[column] = values
    pairs = list(itertools.product(scores, costs))
    found = {(column, cost): _front(scores[column], costs[cost]) for column, cost in pairs}
    fronts = []
    for space, data, (column, cost) in itertools.product(study.spaces, study.data, pairs):
        axis = Place(space=space.name, data=data.name, **places[cost]).quantity
        at, best = found[column, cost]
        place = {"space": space.name, "data": data.name, **places[column]}
        fronts.append(TableFront(**place, cost=axis, costs=at, scores=best))
    return fronts


def _front(scores: Mapping[str, float], costs: Mapping[str, float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return costs and scores of the front, ascending."""
    best: list[tuple[float, float]] = []
    for cost, negative in sorted((costs[arch], -score) for arch, score in scores.items() if arch in costs):
        if not best or -negative > best[-1][1]:
            best.append((cost, -negative))
    return tuple(cost for cost, _ in best), tuple(score for _, score in best)
