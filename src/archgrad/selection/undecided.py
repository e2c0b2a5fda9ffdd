"""What is still open in a supernet of which some choices were settled: operations of rows, edges of nodes, inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from archgrad.cell import Cell
from archgrad.choices import InputChoice
from archgrad.supernet import Supernet

__all__ = ["OpenChoices", "Undecided", "undecided"]

Places = Mapping[str, tuple[int, ...]]
"""Numbers of candidates, by label of their row."""


@dataclass(frozen=True)
class Undecided:
    """One open choice: an operation, of which one is kept, or edges or inputs, of which some are dropped."""

    label: str
    """Of the row; of a node's edges "cell/node"."""
    candidates: dict[str, Places]
    """What there is to choose from, by name (of an edge its source)."""
    n_left: int
    """How many are left in the end."""
    keeps_one: bool
    """Whether it is said which one is kept, and not which ones are dropped."""

    @property
    def surplus(self) -> int:
        """How many must still be dropped."""
        return len(self.candidates) - self.n_left

    def settle(self, supernet: Supernet, name: str) -> None:
        """Keep the operation of this name, or drop the edge or input of this name."""
        if self.keeps_one:
            supernet.kept |= self.candidates[name]
            self.candidates.clear()
            return
        dropped = self.candidates.pop(name)
        if self.label in supernet.rows:  # an input: the others share what it had
            left = [k for places in self.candidates.values() for k in places[self.label]]
            supernet.kept[self.label] = tuple(sorted(left))
        else:
            supernet.switched_off |= {row: tuple(range(len(supernet.rows[row].names))) for row in dropped}


class OpenChoices(NamedTuple):
    """The open choices by cell; those outside cells together under ""."""

    operations: dict[str, list[Undecided]]
    topology: dict[str, list[Undecided]]

    @property
    def rounds(self) -> int:
        """How many times one choice of each cell must be settled until none is open."""
        return sum(max(map(len, kind.values()), default=0) for kind in self)


def undecided(supernet: Supernet) -> OpenChoices:
    """Return what is open: rows with several operations left, nodes with too many edges, and choices of inputs."""
    found = OpenChoices({}, {})
    for entry in {entry.label: entry for entry in supernet.choices}.values():
        choice, label = entry.choice, entry.label
        never = choice.never if isinstance(choice, Cell) else ()
        group = label if isinstance(choice, Cell) else ""
        for row_label, row in choice.rows(label).items():
            left = supernet.kept.get(row_label, tuple(range(len(row.names))))
            allowed = [k for k in left if row.names[k] not in never] or left
            places: dict[str, Places] = {row.names[k]: {row_label: (k,)} for k in allowed}
            keeps_one = row.n_chosen == 1 and not isinstance(choice, InputChoice)
            if len(left) > row.n_chosen:
                kind = found.operations if keeps_one else found.topology
                kind.setdefault(group, []).append(Undecided(row_label, places, row.n_chosen, keeps_one))
        if isinstance(choice, Cell) and choice.n_kept is not None:
            for node, edges in _edges(supernet, choice, label).items():
                if len(edges) > choice.n_kept:
                    node_choice = Undecided(f"{label}/{node}", edges, choice.n_kept, keeps_one=False)
                    found.topology.setdefault(label, []).append(node_choice)
    return found


def _edges(supernet: Supernet, cell: Cell, label: str) -> dict[int, dict[str, Places]]:
    """Return node -> source -> the row of that edge and all its places, of the edges that were not dropped."""
    edges: dict[int, dict[str, Places]] = {}
    for source, node in cell.pairs:
        row = cell.edge_label(label, source, node)
        every = tuple(range(len(cell.names_of(source, node))))
        if supernet.switched_off.get(row) != every:
            edges.setdefault(node, {})[str(source)] = {row: every}
    return edges
