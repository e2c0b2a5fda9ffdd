"""Several runs side by side: mean and spread over seeds, and the edges that they share."""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from archgrad.architecture import Architecture, Decision
from archgrad.decision import candidate_name, outside_cells
from archgrad.report.cell_drawing import cell_graph
from archgrad.report.charts import Series, line_chart
from archgrad.report.origin import digest, origin
from archgrad.report.pictures import HALVES, slug
from archgrad.report.read import NOT_A_SETTING, Run, Table, flatten
from archgrad.report.scene import SERIES, Picture

__all__ = [
    "Decisions",
    "RunGroup",
    "comparison_pictures",
    "group_runs",
    "kept_decisions",
    "mean_and_spread",
]

_COLUMNS = (
    ("train_loss", "Train loss", False),
    ("valid_loss", "Validation loss", False),
    ("test_loss", "Test loss", False),
    ("train_accuracy", "Train accuracy", True),
    ("valid_accuracy", "Validation accuracy", True),
    ("test_accuracy", "Test accuracy", True),
)
_FURTHER = (
    ("alphas_entropy", "Entropy of α (1: undecided)", False),
    ("skip_connections", "Skip connections kept", False),
    ("seconds", "Seconds per epoch", False),
)

_KINDS = {"retrain": "retraining"}
_AMOUNTS = ("skip_connections", "seconds")


@dataclass(frozen=True, kw_only=True)
class RunGroup:
    """Runs with the same settings but for their seed, retrainings also with architectures of the same origin."""

    name: str
    indices: tuple[int, ...]
    """Places of its runs among those compared."""


@dataclass(frozen=True, kw_only=True)
class Decisions:
    """A decision that some runs took: an operation on an edge of a cell, or a candidate of a choice."""

    choice: str
    """Label of the cell or choice."""
    edge: tuple[int, int, int] | None
    """(source, node, number of inputs of the cell); None for a choice outside cells."""
    taken: str
    """The operation, the candidate, or "input 0"."""
    kept: tuple[bool, ...]
    """For each run whether it took this decision."""


def group_runs(runs: Sequence[Run]) -> list[RunGroup]:
    """Return the runs by settings; a group is called after the settings that tell it from others of its command.

    The settings of a retraining say where its architecture comes from (`origin`). Where some architectures of one
    origin were retrained several times, it is these that are compared, and each is a group.
    """
    settings = [_settings(run) for run in runs]
    for indices in _alike(settings):
        # Searches with different seeds may well agree; each of them was still retrained once.
        kinds = [_search_and_decisions(runs[index].architecture) for index in indices]
        if 1 < len(set(map(str, kinds))) < len(kinds):
            for index, kind in zip(indices, kinds, strict=True):
                settings[index] |= kind
    groups = _alike(settings)
    return [
        RunGroup(name=name, indices=tuple(indices))
        for name, indices in zip(_names([settings[indices[0]] for indices in groups]), groups, strict=True)
    ]


def _search_and_decisions(architecture: Architecture | None) -> dict[str, Any]:
    if architecture is None:
        return {}
    return {
        "architecture.seed": architecture.provenance.get("seed"),
        "architecture.choices": digest(architecture),
    }


def _names(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what tells each group's settings from those of the others of its command."""

    def told(own: Mapping[str, Any], *, lacking: bool) -> str:
        peers = [peer for peer in groups if peer["command"] == own["command"]]
        found = [
            f"{name}={value}"
            for name, value in own.items()
            if any((lacking or name in peer) and peer.get(name) != value for peer in peers)
        ]
        return ", ".join(found[:4]) or _KINDS.get(own["command"], own["command"])

    names = [told(own, lacking=False) for own in groups]
    return [told(own, lacking=names.count(name) > 1) for own, name in zip(groups, names, strict=True)]


def _alike(settings: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """The places of equal settings, in order of the first of each."""
    members: dict[str, list[int]] = {}
    for index, one in enumerate(settings):
        members.setdefault(json.dumps(one, sort_keys=True, default=str), []).append(index)
    return list(members.values())


def _settings(run: Run) -> dict[str, Any]:
    flat = flatten(run.config)
    settings = {name: value for name, value in flat.items() if name.split(".")[-1] not in NOT_A_SETTING}
    return origin(run) | settings | {"command": run.command}


def mean_and_spread(values: Sequence[float | None]) -> tuple[float, float | None, int] | None:
    """Return (mean, sample standard deviation, count) of the values that exist; the deviation needs two of them."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    if not finite:
        return None
    return statistics.fmean(finite), statistics.stdev(finite) if len(finite) > 1 else None, len(finite)


def comparison_pictures(runs: Sequence[Run], names: Sequence[str], groups: Sequence[RunGroup]) -> list[Picture]:
    """Return charts of all runs: for each group the mean with a band of one standard deviation, or a single run.

    Searches and retrainings, whose figures do not compare, have charts of their own.
    """
    pictures = []
    commands = list(dict.fromkeys(run.command for run in runs))
    for (column, name, percent), command in itertools.product(_columns(runs), commands):
        tables = [run.timings if column == "seconds" else run.metrics for run in runs]
        own = [k for k, run in enumerate(runs) if run.command == command and column in tables[k].columns]
        epochs = sorted({epoch for k in own for epoch in tables[k].epochs})
        if not epochs or len(own) < 2:
            continue
        several = len(commands) > 1
        title = f"{name}, {_KINDS.get(command, command)}" if several else name
        series = []
        for k, group in enumerate(groups):
            if not set(own).intersection(group.indices):
                continue
            role = SERIES[k % len(SERIES)]
            rows = [_aligned(tables[i], column, epochs) for i in group.indices if column in tables[i].columns]
            series += _group_series(group, rows, role, [names[i] for i in group.indices])
        counted = [epoch + 1 for epoch in epochs]  # as people count
        scene = line_chart(title, counted, series, percent=percent, zero=column in _AMOUNTS)
        end = "-" + slug(command) if several else ""
        pictures.append(Picture(slug="comparison-" + slug(column) + end, title=title, caption="", wide=scene))
    return pictures


def _columns(runs: Sequence[Run]) -> list[tuple[str, str, bool]]:
    """(column, title, whether it is a share) of each chart; further metrics of tasks stand behind the accuracy."""
    known = {column for column, _, _ in _COLUMNS}
    of_tasks: dict[str, None] = {}  # metric by metric
    for column in dict.fromkeys(column for run in runs for column in run.metrics.columns):
        half, _, metric = column.partition("_")
        if half in HALVES and metric and column not in known:
            of_tasks[metric] = None
    measured = [
        (f"{half}_{metric}", f"{title.capitalize()} {metric.replace('_', ' ')}", False)
        for metric in of_tasks
        for half, title in HALVES.items()
    ]
    return [*_COLUMNS, *measured, *_FURTHER]


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
    """Return every decision that any run took, those of most runs first, then by choice and edge."""
    found: dict[tuple[str, tuple[int, int, int] | None, str], set[int]] = {}
    for index, run in enumerate(runs):
        for label, decision in run.architecture.choices.items() if run.architecture else ():
            for edge, taken in _decided(label, decision):
                found.setdefault((label, edge, taken), set()).add(index)

    def order(key: tuple[str, tuple[int, int, int] | None, str]) -> tuple[int, str, tuple[int, int], str]:
        label, edge, taken = key
        return -len(found[key]), label, (edge[1], edge[0]) if edge else (0, 0), taken

    return [
        Decisions(choice=key[0], edge=key[1], taken=key[2], kept=tuple(i in found[key] for i in range(len(runs))))
        for key in sorted(found, key=order)
    ]


def _decided(label: str, decision: Decision) -> Iterator[tuple[tuple[int, int, int] | None, str]]:
    if (name := candidate_name(decision)) is not None:
        yield None, name
    elif isinstance(decision, Mapping):
        graph = cell_graph(label, decision)
        yield from (((edge.source, edge.node, graph.n_inputs), edge.operation) for edge in graph.edges)
    else:
        yield from ((None, f"input {chosen}") for chosen in outside_cells(decision))
