"""Several runs side by side: mean and spread over seeds, and the edges that they share."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from archgrad.report.cells import CellEdge, cell_graph, state_name
from archgrad.report.charts import Series, line_chart
from archgrad.report.pictures import slug
from archgrad.report.read import Run, Table, flatten
from archgrad.report.scene import SERIES, Picture

__all__ = [
    "Decisions",
    "RunGroup",
    "comparison_pictures",
    "edge_text",
    "group_runs",
    "kept_decisions",
    "mean_and_spread",
]

_NOT_A_SETTING = {"seed", "out", "run_dir", "overwrite", "resume", "device", "arch", "quiet", "config"}
_COLUMNS = (
    ("train_loss", "Train loss", False),
    ("valid_loss", "Validation loss", False),
    ("test_loss", "Test loss", False),
    ("train_accuracy", "Train accuracy", True),
    ("valid_accuracy", "Validation accuracy", True),
    ("test_accuracy", "Test accuracy", True),
    ("alphas_entropy", "Entropy of α (1: undecided)", False),
    ("skip_connections", "Skip connections kept", False),
    ("seconds", "Seconds per epoch", False),
)


@dataclass(frozen=True, kw_only=True)
class RunGroup:
    """Runs with the same settings but for their seed."""

    name: str
    indices: tuple[int, ...]
    """Places of its runs among those compared."""


@dataclass(frozen=True, kw_only=True)
class Decisions:
    """A decision that some runs took: an edge of a cell, or a candidate of a choice."""

    choice: str
    """Label of the cell or choice."""
    text: str
    kept: tuple[bool, ...]
    """For each run whether it took this decision."""


def group_runs(runs: Sequence[Run]) -> list[RunGroup]:
    """Return the runs by settings; a group is called after the settings that tell it from the others."""
    settings = [_settings(run) for run in runs]
    keys = [json.dumps(values, sort_keys=True, default=str) for values in settings]
    members: dict[str, list[int]] = {}
    for index, key in enumerate(keys):
        members.setdefault(key, []).append(index)
    names = {name for values in settings for name in values}
    differing = [name for name in sorted(names) if len({json.dumps(v.get(name), default=str) for v in settings}) > 1]
    groups = []
    for indices in members.values():
        values = settings[indices[0]]
        told = ", ".join(f"{name}={values.get(name)}" for name in differing[:4])
        groups.append(RunGroup(name=told or f"{runs[indices[0]].command}", indices=tuple(indices)))
    return groups


def _settings(run: Run) -> dict[str, Any]:
    flat = flatten(run.config)
    return {name: value for name, value in flat.items() if name.split(".")[-1] not in _NOT_A_SETTING} | {
        "command": run.command
    }


def mean_and_spread(values: Sequence[float | None]) -> tuple[float, float | None, int] | None:
    """Return (mean, sample standard deviation, count) of the values that exist; the deviation needs two of them."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    if not finite:
        return None
    return statistics.fmean(finite), statistics.stdev(finite) if len(finite) > 1 else None, len(finite)


def comparison_pictures(runs: Sequence[Run], names: Sequence[str], groups: Sequence[RunGroup]) -> list[Picture]:
    """Return charts of all runs: for each group the mean with a band of one standard deviation, or a single run."""
    pictures = []
    for column, title, percent in _COLUMNS:
        tables = [run.timings if column == "seconds" else run.metrics for run in runs]
        epochs = sorted({e for table in tables if column in table.columns for e in table.epochs})
        if not epochs or sum(column in table.columns for table in tables) < 2:
            continue
        series = []
        for k, group in enumerate(groups):
            role = SERIES[k % len(SERIES)]
            rows = [_aligned(tables[i], column, epochs) for i in group.indices if column in tables[i].columns]
            series += _group_series(group, rows, role, [names[i] for i in group.indices])
        scene = line_chart(title, epochs, series, percent=percent)
        pictures.append(Picture(slug="comparison-" + slug(column), title=title, caption="", wide=scene))
    return pictures


def _group_series(group: RunGroup, rows: Sequence[tuple[float, ...]], role: str, names: Sequence[str]) -> list[Series]:
    if not rows:
        return []
    if len(rows) == 1:
        return [Series(name=names[0] if len(group.indices) == 1 else group.name, values=rows[0], role=role)]
    stats = [mean_and_spread(values) for values in zip(*rows, strict=True)]
    mean = tuple(math.nan if one is None else one[0] for one in stats)
    spread = [0.0 if one is None or one[1] is None else one[1] for one in stats]
    low, high = (tuple(m + sign * s for m, s in zip(mean, spread, strict=True)) for sign in (-1, 1))
    thin = [Series(name=name, values=row, role=role, faint=True) for name, row in zip(names, rows, strict=False)]
    label = f"{group.name}, mean of {len(rows)}"
    return [*thin, Series(name=label, values=mean, role=role, low=low, high=high)]


def _aligned(table: Table, column: str, epochs: Sequence[int]) -> tuple[float, ...]:
    known = dict(zip(table.epochs, table.columns[column], strict=True))
    return tuple(known.get(epoch, math.nan) for epoch in epochs)


def kept_decisions(runs: Sequence[Run]) -> list[Decisions]:
    """Return every decision that any run took, those of most runs first."""
    taken: dict[tuple[str, str], set[int]] = {}
    for index, run in enumerate(runs):
        for label, decision in run.architecture.choices.items() if run.architecture else ():
            if isinstance(decision, str):
                texts = [decision]
            elif isinstance(decision, Mapping):
                graph = cell_graph(label, decision)
                texts = [f"{edge_text(edge, graph.n_inputs)} {edge.operation}" for edge in graph.edges]
            else:
                texts = [f"input {chosen}" for chosen in decision]
            for text in texts:
                taken.setdefault((label, text), set()).add(index)
    order = sorted(taken, key=lambda key: -len(taken[key]))
    return [
        Decisions(choice=label, text=text, kept=tuple(i in taken[label, text] for i in range(len(runs))))
        for label, text in order
    ]


def edge_text(edge: CellEdge, n_inputs: int) -> str:
    """Return "c_{k-2} → 0" for an edge from the first of two inputs to the first node."""
    source, subscript = state_name(edge.source, n_inputs)
    return f"{source}_{{{subscript}}} → {edge.node - n_inputs}" if subscript else f"{source} → {edge.node - n_inputs}"
