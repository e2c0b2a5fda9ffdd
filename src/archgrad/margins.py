"""How clearly a search decided: the margin of each decision, and whether the alphas moved at all.

Alphas begin within about 0.001 of each other. Where they stay there, the architecture is that of the first random
numbers, and the next seed gives another. The rule: a search is undecided when the mean over its rows of alphas of the
normalised entropy, -sum(p log p) / log K, is above 0.99. Logits with a small standard deviation s have an entropy of
about 1 - s^2 / (2 log K), so with eight candidates 0.99 is a spread of 0.2: the likeliest candidate has then about a
third more than its equal share. That is a convention, not a test: below it, seeds may disagree all the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from archgrad.architecture import Architecture
from archgrad.decision import edge_of_row, taken_candidates

__all__ = ["UNDECIDED", "margins_of", "row_entropy", "undecided_note"]

UNDECIDED = 0.99
"""Mean normalised entropy above which the alphas count as hardly moved."""
_SHOWN = 4


def row_entropy(row: Sequence[float], *, n_chosen: int) -> float:
    """Return the entropy of p / n_chosen, divided by log K: 1 is undecided, 0 decided.

    Args:
        row: Probabilities of at least two candidates; they sum to `n_chosen`.
        n_chosen: How many of them are taken.
    """
    shares = [p / n_chosen for p in row]
    return -sum(p * math.log(p) for p in shares if p > 0) / math.log(len(row))


def margins_of(architecture: Architecture) -> dict[str, float]:
    """Return by row of alphas how far the taken candidates are ahead of the others, smallest first.

    The margin is the probability of the least likely taken candidate less that of the likeliest other one, from -1 to
    1. It is below 0 where a rule other than the likeliest candidate decided. On the edges of cells "none" is no other
    candidate, since a cell does not keep it. Empty where the architecture does not say what was searched.
    """
    found = {}
    for label, taken in taken_candidates(architecture.choices).items():
        row = _probabilities(architecture, label)
        left_out = {*taken, "none"} if edge_of_row(label) else taken
        others = [p for name, p in row.items() if name not in left_out]
        if others and all(name in row for name in taken):
            found[label] = min(row[name] for name in taken) - max(others)
    return dict(sorted(found.items(), key=lambda item: item[1]))


def undecided_note(architecture: Architecture) -> str | None:
    """Return a note, with the smallest margins, if the alphas hardly moved (see the rule above); None if they did.

    None as well where the architecture does not say what was searched.
    """
    entropies = []
    for label, taken in taken_candidates(architecture.choices).items():
        row = _probabilities(architecture, label)
        if len(row) > len(taken):
            entropies.append(row_entropy(list(row.values()), n_chosen=len(taken)))
    mean = sum(entropies) / len(entropies) if entropies else 0.0
    if mean <= UNDECIDED:
        return None
    margins = list(margins_of(architecture).items())
    smallest = ", ".join(f"{label} {margin:.2g}" for label, margin in margins[:_SHOWN])
    return (
        f"The alphas hardly moved: their mean entropy is {mean:.6f}, where 1 is undecided. Another seed may well give "
        f"another architecture. "
        f"{'Smallest margins' if len(margins) > _SHOWN else 'Margins'} of probability before the next candidate: "
        f"{smallest}. Raise the epochs or the learning rate of the alphas until the entropy falls below {UNDECIDED}."
    )


def _probabilities(architecture: Architecture, label: str) -> dict[str, float]:
    """Return the probabilities of a row, as far as the provenance, which may be of anyone's making, has them."""
    rows: Any = architecture.provenance.get("probabilities")
    row = rows.get(label) if isinstance(rows, Mapping) else None
    if isinstance(row, (list, tuple)):
        row = {str(index): p for index, p in enumerate(row)}
    if not isinstance(row, Mapping) or not all(
        isinstance(p, (int, float)) and not isinstance(p, bool) and 0.0 <= p <= 1.0 for p in row.values()
    ):
        return {}
    return {name: float(p) for name, p in row.items()}
