"""What the alphas say while they form: entropy, skip connections, and whether the search collapses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from archgrad.architecture import Architecture
from archgrad.choices import AlphaRow
from archgrad.margins import row_entropy
from archgrad.operations import is_skip
from archgrad.stopping.skip_count import kept_operations

__all__ = ["HELPFUL", "collapse_warning", "mean_entropy", "skip_connections", "skip_share"]

HELPFUL = {
    "skip connections": ("darts_minus", "lambda_darts", "beta_darts", "sdarts_rs", "darts_plus"),
    "'none'": ("beta_darts", "sdarts_rs", "fair_darts"),
}
"""Published methods that were made against what takes over, by Python name."""
_EDGE = "->"
"""What the label of an edge of a `Cell` has: "label/source->node"."""
_FEW = 4
"""Fewer edges than that tell nothing of skip connections."""


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


def skip_share(probabilities: Mapping[str, Sequence[float]], rows: Mapping[str, AlphaRow]) -> float | None:
    """Return the mean probability of skip connections (by name) on the rows that have one; None where none has."""
    shares = _shares(probabilities, rows, is_skip)
    return sum(shares) / len(shares) if shares else None


def _shares(
    probabilities: Mapping[str, Sequence[float]], rows: Mapping[str, AlphaRow], counts: Callable[[str], bool]
) -> list[float]:
    """Return the probability of the candidates that count, of each row that has such."""
    chosen = [(label, [k for k, name in enumerate(row.names) if counts(name)]) for label, row in rows.items()]
    return [sum(probabilities[label][k] for k in places) for label, places in chosen if places]


def collapse_warning(
    architecture: Architecture,
    probabilities: Mapping[str, Sequence[float]],
    rows: Mapping[str, AlphaRow],
    watched: Mapping[str, tuple[Any, Any]] = MappingProxyType({}),
) -> str | None:
    """Return a warning when skip connections or "none" take over, which searches by gradient are known for.

    The rule: more than half of a cell's kept edges (of at least 4) are skip connections, or "none" has more than half
    of the probability on more than half of the cells' edges that have it, or skip connections do on more than half of
    the rows that have them (of at least 4). In a layer choice outside cells, a candidate called "none" may be anything.

    Args:
        architecture: What the alphas lead to.
        probabilities: Of the candidates, by label.
        rows: What they stand for.
        watched: What the parts of the method measure, by name: (at the end of the first epoch, now).
    """
    found = _taken_over(architecture, probabilities, rows)
    if found is None:
        return None
    what, said = found
    measured = [f"{name} {_value(now)} ({_value(first)} at first)" for name, (first, now) in watched.items()]
    seen = f" Measured: {', '.join(measured)}." if measured else ""
    helpful = ", ".join(name.replace("_", "-") for name in HELPFUL[what])
    return (
        f"Warning: {said}.{seen} Architectures of this kind usually retrain badly. Try fewer epochs, the architecture "
        f"of an earlier epoch (checkpoints/epoch_N.json), a larger weight decay of the weights, or a method made "
        f"against it: {helpful}."
    )


def _taken_over(
    architecture: Architecture, probabilities: Mapping[str, Sequence[float]], rows: Mapping[str, AlphaRow]
) -> tuple[str, str] | None:
    """Return what takes over, and how far it has, in words."""
    for label, names in kept_operations(architecture).items():
        skips = sum(map(is_skip, names))
        if len(names) >= _FEW and 2 * skips > len(names):
            return "skip connections", f"{skips} of {len(names)} kept edges of '{label}' are skip connections"
    edges = {label: row for label, row in rows.items() if _EDGE in label}
    for what, where, counts, least in (
        ("'none'", edges, "none".__eq__, 1),
        ("skip connections", rows, is_skip, _FEW),
    ):
        shares = _shares(probabilities, where, counts)
        taken = sum(p > 0.5 for p in shares)
        if len(shares) >= least and 2 * taken > len(shares):
            verb = "has" if what == "'none'" else "have"
            return what, f"{what} {verb} more than half of the probability on {taken} of {len(shares)} edges"
    return None


def _value(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, int | float) else "unknown"
