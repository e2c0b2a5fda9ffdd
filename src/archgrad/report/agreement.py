"""How far the members of an ensemble agree, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from archgrad.architecture import Architecture
from archgrad.decision import taken_candidates
from archgrad.margins import agreement_of
from archgrad.report.elements import details, table
from archgrad.report.read import read_probabilities
from archgrad.report.svg import escape

__all__ = ["agreement_table"]


def agreement_table(architecture: Architecture) -> str:
    """Return a table of an ensemble's decisions, the least agreed first; empty for an architecture of a single search.

    Args:
        architecture: Its provenance says how many members took the same (see `archgrad.methods.Ensemble`).
    """
    shares, taken = agreement_of(architecture), taken_candidates(architecture.choices)
    members: Any = architecture.provenance.get("members")
    shares = {label: share for label, share in shares.items() if label in taken}
    if not shares or not isinstance(members, Sequence):
        return ""
    probabilities = read_probabilities(architecture.provenance)
    rows = []
    for label, share in shares.items():
        names = sorted(taken[label])
        row = [probabilities.get(label, {}).get(name) for name in names]
        means = ", ".join("–" if p is None else f"{p:.2f}" for p in row)
        rows.append(
            [escape(label), escape(", ".join(names)), f"{round(share * len(members))} of {len(members)}", means]
        )
    head = ["choice", "taken together", "members that took it", "mean probability"]
    content = table(head, rows, name="Agreement of the ensemble's members")
    return details(f"Agreement of the {len(members)} members, the least agreed first", content, opened=True)
