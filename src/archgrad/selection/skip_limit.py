"""The selection of P-DARTS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from archgrad.decision import edge_of_row, freeze_decisions, taken_candidates
from archgrad.discretize import decide
from archgrad.operations import is_skip
from archgrad.selection.selection import Scores, Selection
from archgrad.sizes import check_whole
from archgrad.supernet import Supernet

__all__ = ["SkipLimit"]


@dataclass(frozen=True)
class SkipLimit(Selection):
    """No cell keeps more than `limit` skip connections, where it has anything else to keep.

    Candidates are ranked by their probability. While a cell keeps too many skip connections, the least likely one that
    it keeps is ruled out and the cell decides anew: its edge then competes with its next best operation, and another
    edge may take its place. Skip connections are told by their names; layer choices outside cells count together, as
    one cell.

    Source: Chen et al. 2019 (P-DARTS), section 3.3, and their code; both limit the normal cell alone, with 2.
    """

    limit: int = 2
    """Skip connections that a cell keeps at most, at least 0."""
    label: str = ""
    """Part of the label of the cells that are limited, such as "normal"; empty limits all."""

    def __post_init__(self) -> None:
        check_whole("limit", self.limit, least=0)

    def scores(self, supernet: Supernet) -> Scores:
        """Return the probabilities, those of the skip connections that were ruled out less one."""
        scores = {label: list(row) for label, row in supernet.probabilities().items()}
        while surplus := self._surplus(supernet, scores):
            label, k = min(surplus, key=lambda place: scores[place[0]][place[1]])
            scores[label][k] -= 1.0
        return scores

    def _surplus(self, supernet: Supernet, scores: Scores) -> Sequence[tuple[str, int]]:
        """Return (row, place) of the kept skip connections of a cell that has too many and can do without one."""
        decided = freeze_decisions(decide(supernet.network, supernet.choices, scores))
        cells: dict[str, list[tuple[str, int]]] = {}
        for row, names in taken_candidates(decided).items():
            edge = edge_of_row(row)
            for name in names if self.label in row else ():
                if is_skip(name):
                    places = cells.setdefault(edge[0] if edge else "", [])
                    places.append((row, supernet.rows[row].names.index(name)))
        for places in cells.values():
            free = [(row, k) for row, k in places if scores[row][k] >= 0]
            if len(places) > self.limit and free:
                return free
        return ()
