"""The likeliest network that keeps the budgets of a search, where the likeliest of all breaks one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from archgrad.architecture import Architecture
from archgrad.discretize import decide
from archgrad.json_text import thaw
from archgrad.regularizers import CostBudget, Regularizer
from archgrad.search.together import rows_of
from archgrad.supernet import Supernet

__all__ = ["notes_on_budgets", "within_budgets", "without_budgets"]

_FIRST, _LAST = 2.0**-10, 2.0**30
"""Multipliers, in logarithms of a probability for the whole budget, that are tried at first and at last."""
_HALVINGS = 20


def within_budgets(found: Architecture, supernet: Supernet, regularizers: Sequence[Regularizer]) -> Architecture:
    """Return an architecture; where it breaks a budget, and others keep all, the likeliest of these.

    The likeliest network at a cost of at most B has the largest sum of log p. Its Lagrangian gives the cost a price,
    the multiplier: each row takes the candidate with the largest log p - multiplier c, where c is how much the mean
    cost rises with the candidate's probability. The choices decide by their own rules, with p exp(-multiplier c) in the
    place of p (relative to the cheapest candidate of the row), and the multiplier rises until all budgets are kept; the
    lowest is found by doubling and halving. At a high one each row takes the candidate that costs least. Several rows
    may change at one multiplier, more than is needed; so rows get their likeliest candidates back while the budgets
    stay kept, those first that lost most. A likelier network that just keeps the budgets can still be missed (the
    duality gap).

    Args:
        found: What the alphas decide, with its probabilities, or scores of a selection, in the provenance.
        supernet: Its choices decide; stays as it is.
        regularizers: Of the search, which say what breaks a budget.

    Returns:
        `found` itself where it keeps all budgets, or no multiplier is enough. Else another, whose provenance has
        "multiplier", and in "before_budget" the decisions of `found` that are others now.
    """
    budgets = [part for part in regularizers if isinstance(part, CostBudget)]

    def kept(architecture: Architecture) -> bool:
        return all(part.keeps(architecture) for part in budgets)

    if kept(found):
        return found
    probabilities, edges = (rows_of(found, name, supernet=supernet) for name in ("probabilities", "edge_weights"))
    scores = rows_of(found, "scores", supernet=supernet) or probabilities
    slopes = [part.marginal(probabilities, supernet.rows) for part in budgets]
    costs = {label: list(map(math.fsum, zip(*(slope[label] for slope in slopes), strict=True))) for label in scores}

    def at(multipliers: Mapping[str, float]) -> Architecture:
        priced = {label: _priced(row, costs[label], multipliers[label]) for label, row in scores.items()}
        return Architecture(decide(supernet.network, supernet.choices, {**edges, **priced}), space=found.space)

    def everywhere(multiplier: float) -> dict[str, float]:
        return dict.fromkeys(scores, multiplier)

    high = _FIRST
    while not kept(at(everywhere(high))):
        if high > _LAST:
            return found
        high *= 2.0
    low = 0.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        low, high = (low, middle) if kept(at(everywhere(middle))) else (middle, high)
    multipliers = everywhere(high)
    lost = {label: _lost(row, costs[label], high) for label, row in scores.items()}
    for label in sorted(scores, key=lambda label: -lost[label]):
        if lost[label] > 0.0 and kept(at(without := {**multipliers, label: 0.0})):
            multipliers = without
    taken = at(multipliers)
    changed = {label: decision for label, decision in found.choices.items() if taken.choices.get(label) != decision}
    evidence = {**found.provenance, "multiplier": high, "before_budget": thaw(changed)}
    return replace(taken, provenance=evidence)


def without_budgets(architecture: Architecture) -> Architecture:
    """Return what an architecture was before `within_budgets`; where that was another, without its costs."""
    if "before_budget" not in architecture.provenance:
        return architecture
    added = ("multiplier", "before_budget", "costs")
    return replace(
        architecture,
        choices={**architecture.choices, **architecture.provenance["before_budget"]},
        provenance={name: value for name, value in architecture.provenance.items() if name not in added},
    )


def notes_on_budgets(architecture: Architecture, regularizers: Sequence[Regularizer]) -> list[str]:
    """Return what is to be said of a result: what `within_budgets` changed, and what is above a budget all the same."""
    notes = [f"Warning: {broken}" for part in regularizers if (broken := part.broken(architecture)) is not None]
    before = without_budgets(architecture)
    if before is architecture:
        return notes
    costs = "; ".join(part.change(before, architecture) for part in regularizers if isinstance(part, CostBudget))
    return [
        f"The likeliest network of all breaks a budget. The result keeps it, as likely as may be: {costs}. "
        f"Decided otherwise: {', '.join(architecture.provenance['before_budget'])}.",
        *notes,
    ]


def _priced(row: Sequence[float], costs: Sequence[float], multiplier: float) -> list[float]:
    """Return scores with a multiplier on the costs; those below 0, which count where a row has no other, stay below."""
    pairs = list(zip(row, costs, strict=True))
    least = {
        above: min((cost for score, cost in pairs if (score > 0.0) is above), default=0.0) for above in (True, False)
    }

    def priced(score: float, cost: float) -> float:
        loss = multiplier * (cost - least[score > 0.0])
        return score * math.exp(-loss) if score > 0.0 else score - loss if score < 0.0 else score

    return [priced(score, cost) for score, cost in pairs]


def _lost(row: Sequence[float], costs: Sequence[float], multiplier: float) -> float:
    """Return what a row loses by a multiplier: the logarithm of the best score over that of what it takes then."""
    priced = _priced(row, costs, multiplier)
    best, taken = max(row), row[max(range(len(row)), key=lambda k: priced[k])]
    return math.log(best / taken) if taken > 0.0 else best - taken
