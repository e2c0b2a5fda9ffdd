"""What the members of an ensemble decide together: by the mean of their probabilities, with their agreement."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

from archgrad.architecture import Architecture
from archgrad.decision import taken_candidates
from archgrad.discretize import decide, discretize
from archgrad.json_text import thaw
from archgrad.methods import Ensemble
from archgrad.selection import Scores, Selection, leaving_out
from archgrad.supernet import Supernet

__all__ = ["decided_together", "rows_of"]


def decided_together(
    members: Sequence[Architecture],
    ensemble: Ensemble,
    selection: Selection,
    supernet: Supernet,
    *,
    space: str | None,
    provenance: Mapping[str, Any],
) -> Architecture:
    """Return the architecture that the mean of the members' probabilities leads to.

    Args:
        members: What each decided by itself, with its alphas and probabilities, as `discretize` gives it; at least one.
        ensemble: Says what is left out.
        selection: Of all members.
        supernet: Of any member; its choices decide, and it stays as it is.
        space: Name of the space, to be stored.
        provenance: Stored beside the members, their mean and their agreement.
    """
    whole = _Mean(supernet, members)
    rows = partial(rows_of, supernet=supernet)
    own = [rows(member, "scores") or rows(member, "probabilities") for member in members]
    scores = _mean(own) if selection.settles else selection.scores(cast(Supernet, whole))
    found = discretize(
        cast(Supernet, whole), space=space, provenance=provenance, scores=_without(scores, ensemble, supernet)
    )
    each = [
        decide(
            supernet.network,
            supernet.choices,
            {**rows(member, "edge_weights"), **_without(scores, ensemble, supernet)},
        )
        for member, scores in zip(members, own, strict=True)
    ]
    alone = [Architecture(choices, space=space) for choices in each]
    shares = [taken_candidates(architecture.choices) for architecture in alone]
    evidence = {name: value for name, value in found.provenance.items() if name != "alphas"}  # of one member alone
    evidence["agreement"] = {
        label: sum(share.get(label) == taken for share in shares) / len(shares)
        for label, taken in taken_candidates(found.choices).items()
    }
    evidence["members"] = [
        {
            **{name: member.provenance[name] for name in ("seed", "epoch", "probabilities")},
            "choices": thaw(architecture.choices),
        }
        for member, architecture in zip(members, alone, strict=True)
    ]
    return Architecture(found.choices, space=space, provenance=evidence)


class _Mean:
    """A supernet, but for the probabilities, which are the mean of several searches, and for what was settled."""

    def __init__(self, supernet: Supernet, members: Sequence[Architecture]) -> None:
        self._supernet = supernet
        rows = partial(rows_of, supernet=supernet)
        self._probabilities = _mean([rows(member, "probabilities") for member in members])
        self._edges = _mean([rows(member, "edge_weights") for member in members])
        self.settled: list[dict[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._supernet, name)

    def probabilities(self) -> Scores:
        return self._probabilities

    def edge_probabilities(self) -> Scores:
        return self._edges


def rows_of(member: Architecture, name: str, *, supernet: Supernet) -> dict[str, list[float]]:
    """Return numbers of a member's provenance by row, in the order of the candidates."""
    rows: Mapping[str, Any] = member.provenance.get(name, {})
    return {
        label: [row[each] for each in supernet.rows[label].names] if isinstance(row, Mapping) else list(row)
        for label, row in rows.items()
    }


def _mean(rows: Sequence[Scores]) -> dict[str, list[float]]:
    return {
        label: [math.fsum(values) / len(rows) for values in zip(*(each[label] for each in rows), strict=True)]
        for label in rows[0]
    }


def _without(scores: Scores, ensemble: Ensemble, supernet: Supernet) -> Scores:
    """Return the scores, those of what is left out below 0: a choice takes that only where it has nothing else."""
    names = {label: supernet.rows[label].names for label in scores}
    return {
        label: leaving_out(row, [k for k, name in enumerate(names[label]) if name in ensemble.without])
        for label, row in scores.items()
    }
