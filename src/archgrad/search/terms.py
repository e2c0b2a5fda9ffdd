"""What the regularisers of a search say at its beginning, of an epoch, and of its result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from archgrad.architecture import Architecture
from archgrad.margins import undecided_note
from archgrad.regularizers import Regularizer
from archgrad.search.within_budget import notes_on_budgets
from archgrad.supernet import Supernet

__all__ = ["of_regularizers", "say_remarks", "say_result", "with_costs"]


def say_remarks(regularizers: Sequence[Regularizer], say: Callable[[str], None]) -> None:
    """Say what regularisers have to say when a search begins."""
    for remark in filter(None, (part.remark() for part in regularizers)):
        say(remark)


def say_result(architecture: Architecture, regularizers: Sequence[Regularizer], say: Callable[[str], None]) -> None:
    """Say of a result what is left undecided in it, what budgets changed, and what is above them all the same."""
    undecided = undecided_note(architecture)
    warned = [] if undecided is None else [f"Warning: {undecided}"]
    for note in (*warned, *notes_on_budgets(architecture, regularizers)):
        say(note)


def of_regularizers(
    regularizers: Sequence[Regularizer], supernet: Supernet, architecture: Architecture
) -> dict[str, float]:
    """Return the columns of regularisers for the architecture of an epoch, and let them remember it."""
    figures = {name: value for part in regularizers for name, value in part.figures(architecture).items()}
    for part in regularizers:
        supernet.memory.update(part.after_epoch(architecture))
    return figures


def with_costs(architecture: Architecture, regularizers: Sequence[Regularizer]) -> Architecture:
    """Return the architecture with "costs" in its provenance: what its parts cost, as far as regularisers know."""
    costs = {cost: dict(parts) for part in regularizers for cost, parts in part.where(architecture).items()}
    return replace(architecture, provenance={**architecture.provenance, "costs": costs}) if costs else architecture
