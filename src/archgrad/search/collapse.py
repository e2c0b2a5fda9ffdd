"""What the alphas say while they form: entropy, skip connections, and whether the search collapses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from archgrad.architecture import Architecture
from archgrad.choices import AlphaRow
from archgrad.margins import row_entropy
from archgrad.operations import is_skip
from archgrad.stopping.skip_count import kept_operations

__all__ = ["collapse_warning", "mean_entropy", "skip_connections"]


def mean_entropy(probabilities: Mapping[str, Sequence[float]], rows: Mapping[str, AlphaRow]) -> float | None:
    """Return the mean over rows of the entropy of p / n_chosen, divided by log K: 1 is undecided, 0 decided.

    None where every row has one candidate.
    """
    entropies = [
        row_entropy(row, n_chosen=rows[label].n_chosen) for label, row in probabilities.items() if len(row) > 1
    ]
    return sum(entropies) / len(entropies) if entropies else None


def skip_connections(architecture: Architecture, rows: Mapping[str, AlphaRow]) -> int | None:
    """Return how many kept operations are skip connections (by name); None where the space has none."""
    if not any(is_skip(name) for row in rows.values() for name in row.names):
        return None
    return sum(is_skip(name) for names in kept_operations(architecture).values() for name in names)


def collapse_warning(
    architecture: Architecture, probabilities: Mapping[str, Sequence[float]], rows: Mapping[str, AlphaRow]
) -> str | None:
    """Return a warning when skip connections or "none" take over, which searches by gradient are known for.

    The rule: more than half of a cell's kept edges (of at least 4) are skip connections, or "none" has more than half
    of the probability on more than half of the cells' edges. In a layer choice outside cells, "none" may be anything.
    """
    advice = (
        "Architectures of this kind usually retrain badly. Try fewer epochs, the architecture of an earlier epoch "
        "(checkpoints/epoch_N.json), a larger weight decay of the weights, or --step unrolled."
    )
    for label, names in kept_operations(architecture).items():
        skips = sum(map(is_skip, names))
        if len(names) >= 4 and 2 * skips > len(names):
            return f"Warning: {skips} of {len(names)} kept edges of '{label}' are skip connections. {advice}"
    cells = tuple(f"{label}/" for label, decision in architecture.choices.items() if isinstance(decision, Mapping))
    nothing = [
        row[rows[label].names.index("none")]
        for label, row in probabilities.items()
        if label.startswith(cells) and "none" in rows[label].names
    ]
    taken = sum(p > 0.5 for p in nothing)
    if 2 * taken > len(nothing):
        return f"Warning: 'none' has more than half of the probability on {taken} of {len(nothing)} edges. {advice}"
    return None
