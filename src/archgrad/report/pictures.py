"""The figures of a run: what is drawn from which of its files, under which name."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from archgrad.architecture import Architecture
from archgrad.decision import edge_of_row, edge_row
from archgrad.report.cell_drawing import CellGraph, cell_graph, cell_scene
from archgrad.report.charts import Series, line_chart
from archgrad.report.heat import HeatPanel, cell_heat_scene, confusion_scene, panels_scene
from archgrad.report.network_drawing import network_scene
from archgrad.report.read import Frame, Run, Table
from archgrad.report.residuals import residual_scene
from archgrad.report.scene import SERIES, Picture, operation_roles
from archgrad.report.trees import ChoiceRow, choice_row, tree_scene

__all__ = [
    "HALVES",
    "alphas_pictures",
    "architecture_pictures",
    "candidates_of",
    "cell_graphs",
    "cell_labels",
    "choice_rows",
    "class_names",
    "confusion_pictures",
    "curve_pictures",
    "edge_pairs",
    "of_images",
    "residual_pictures",
    "slug",
    "timing_pictures",
    "unique_slugs",
    "unit_of",
]

Probabilities = Mapping[str, Mapping[str, float]]

_COSTS = {
    "multiply_adds": "Multiply-adds",
    "parameters": "Parameters",
    "activations": "Activations",
    "latency": "Latency (ms)",
}
_Curves = Sequence[tuple[str, str, tuple[tuple[str, str], ...], str]]
"""(name of the file, title, ((column, name of the curve), ...), kind of the axis: "plain", "percent", or from zero
"amount" and "share")."""
_CURVES: _Curves = (
    (
        "loss",
        "Loss",
        (("train_loss", "train"), ("valid_loss", "validation"), ("test_loss", "test")),
        "plain",
    ),
    (
        "accuracy",
        "Accuracy",
        (("train_accuracy", "train"), ("valid_accuracy", "validation"), ("test_accuracy", "test")),
        "percent",
    ),
    ("alphas-entropy", "Entropy of α (1: undecided)", (("alphas_entropy", "mean over choices"),), "plain"),
    (
        "gradient-norms",
        "Gradient norm",
        (("alphas_gradient_norm", "α"), ("weights_gradient_norm", "weights")),
        "plain",
    ),
    ("skip-connections", "Skip connections kept", (("skip_connections", "all cells"),), "amount"),
    ("skip-share", "Probability of skip connections", (("skip_share", "mean over edges"),), "share"),
    ("hessian", "Largest eigenvalue of the Hessian in α", (("hessian_eigenvalue", "validation loss"),), "plain"),
    ("layer-cosine", "Cosine between the gradients of layers", (("layer_cosine", "mean over pairs"),), "plain"),
    (
        "gradient-match",
        "Match of training and validation gradients",
        (("gradient_match", "candidates that learn"), ("frozen_operations", "share of frozen candidates")),
        "plain",
    ),
    *(
        (
            f"cost-{column.replace('_', '-')}",
            f"{cost} of the derived network",
            ((f"derived_{column}", "derived"), (f"budget_{column}", "budget")),
            "amount",
        )
        for column, cost in _COSTS.items()
    ),
    (
        "multiplier",
        "Multiplier of the budget",
        tuple((f"multiplier_{column}", cost) for column, cost in _COSTS.items()),
        "amount",
    ),
    ("learning-rate", "Learning rate", (("learning_rate", "weights"),), "amount"),
    ("temperature", "Temperature of the relaxation", (("temperature", "temperature"),), "plain"),
    ("skipped-steps", "Steps skipped", (("skipped_steps", "so far"),), "amount"),
    ("drop-path", "Drop path probability", (("drop_path", "probability"),), "amount"),
)
_TIMINGS: _Curves = (
    ("time", "Seconds per epoch", (("seconds", "whole epoch"), ("checkpoint_seconds", "saving")), "amount"),
    ("throughput", "Samples per second", (("images_per_second", "training"),), "amount"),
    ("memory", "Peak memory (MB)", (("peak_memory_mb", "so far"),), "amount"),
    ("waiting", "Share of time waiting for data", (("waiting_share", "waiting"),), "share"),
)
_IF_ANY = ("skipped_steps", "drop_path")
_OF_A_COST = ("derived", "budget")
_MANY_EDGES = 60
_MANY_PANELS = 60
_MOST_VALUES = 4
HALVES = {"train": "train", "valid": "validation", "test": "test"}
"""What the names of columns of a half of the data begin with -> what it is called."""


def slug(text: str) -> str:
    """Return a file name without suffix for any text."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "unnamed"


def unique_slugs(pictures: Sequence[Picture]) -> list[str]:
    """Return a file name for each picture; those that would share one get a number."""
    names: list[str] = []
    for picture in pictures:
        name, count = picture.slug, 2
        while name in names:
            name = f"{picture.slug}-{count}"
            count += 1
        names.append(name)
    return names


def cell_labels(architecture: Architecture) -> list[str]:
    """Return the labels of the choices that are cells."""
    return [label for label, decision in architecture.choices.items() if isinstance(decision, Mapping)]


def cell_graphs(architecture: Architecture, probabilities: Probabilities) -> list[CellGraph]:
    """Return the graphs of an architecture's cells."""
    return [
        cell_graph(label, decision, probabilities)
        for label, decision in architecture.choices.items()
        if isinstance(decision, Mapping)
    ]


def choice_rows(architecture: Architecture, probabilities: Probabilities) -> list[ChoiceRow]:
    """Return the rows of an architecture's choices that are no cells."""
    return [
        choice_row(label, decision, probabilities.get(label))
        for label, decision in architecture.choices.items()
        if not isinstance(decision, Mapping)
    ]


def edge_pairs(label: str, frames: Sequence[Frame]) -> list[tuple[int, int]]:
    """Return (source, node) of every edge that a search knows of a cell, node by node.

    Of a cell with too many edges to draw, those that were ever kept.
    """
    pairs: set[tuple[int, int]] = set()
    kept: set[tuple[int, int]] = set()
    for frame in frames:
        for name in frame.probabilities:
            edge = edge_of_row(name)
            if edge is not None and edge[0] == label:
                pairs.add(edge[1:])
        decision = frame.architecture.choices.get(label)
        if isinstance(decision, Mapping):
            kept |= {(edge.source, edge.node) for edge in cell_graph(label, decision).edges}
    pairs |= kept
    if len(pairs) > _MANY_EDGES:
        pairs = kept
    return sorted(pairs, key=lambda pair: (pair[1], pair[0]))


def candidates_of(label: str, frames: Sequence[Frame]) -> list[str]:
    """Return the names of all operations that a search knows on the edges of a cell."""
    names: dict[str, None] = {}
    for frame in frames:
        for key, row in frame.probabilities.items():
            if key.startswith(label + "/"):
                names.update(dict.fromkeys(row))
        decision = frame.architecture.choices.get(label)
        if isinstance(decision, Mapping):
            names.update(dict.fromkeys(edge.operation for edge in cell_graph(label, decision).edges))
    return list(names)


def architecture_pictures(architecture: Architecture, probabilities: Probabilities) -> list[Picture]:
    """Return a picture of each cell, and one of all other choices."""
    graphs = cell_graphs(architecture, probabilities)
    names = [name for key, row in probabilities.items() if edge_of_row(key) for name in row]
    roles = operation_roles(list(dict.fromkeys([*names, *(e.operation for graph in graphs for e in graph.edges)])))
    pictures = []
    for graph in graphs:
        strong = any(edge.strength is not None for edge in graph.edges)
        pictures.append(
            Picture(
                slug="cell-" + slug(graph.label),
                title=f"Cell {graph.label}",
                caption="Operations of the kept edges"
                + ("; the wider an edge, the higher the probability of its operation." if strong else "."),
                wide=cell_scene(graph, roles=roles),
                narrow=cell_scene(graph, roles=roles, narrow=True),
            )
        )
    blocks = network_scene(architecture)
    if blocks is not None:
        caption = "Blocks from input to output, as high as their stage is wide, and what each takes."
        pictures.append(Picture(slug="network", title="Network", caption=caption, wide=blocks, narrow=blocks))
    rows = choice_rows(architecture, probabilities)
    if rows:
        pictures.append(
            Picture(
                slug="choices",
                title="Choices",
                caption="Every choice with its candidates; filled ones are chosen.",
                wide=tree_scene(rows),
                narrow=tree_scene(rows, narrow=True),
            )
        )
    return pictures


def alphas_pictures(frames: Sequence[Frame]) -> list[Picture]:
    """Return heat maps of the probabilities over the epochs: one a cell, and one of all other choices."""
    if not any(frame.probabilities for frame in frames):
        return []
    epochs = [frame.epoch + 1 for frame in frames]  # people count from 1
    architecture = frames[-1].architecture
    pictures, used = [], set()
    for graph in cell_graphs(architecture, {}):
        panels = []
        candidates = tuple(candidates_of(graph.label, frames))
        caption = "Probability of every operation (rows) on every edge (panels) over the epochs (left to right)."
        for source, node in edge_pairs(graph.label, frames):
            key = edge_row(graph.label, source, node)
            used.add(key)
            values = _values(key, candidates, frames)
            panels.append(HeatPanel(label=key, candidates=candidates, values=values, edge=(source, node)))
        if not panels or not any(np.isfinite(panel.values).any() for panel in panels):
            continue
        if any(not np.isfinite(panel.values).any(axis=1).all() for panel in panels):
            caption += " A line in the place of a row: this edge does not have the operation."
        title = f"Cell {graph.label}"
        pictures.append(
            Picture(
                slug="alphas-" + slug(graph.label),
                title=title + ": α over epochs",
                caption=caption,
                wide=cell_heat_scene(title, panels, epochs, n_inputs=graph.n_inputs),
                narrow=panels_scene(title, panels, epochs, n_inputs=graph.n_inputs, width=356.0),
            )
        )
    rest = [label for label in dict.fromkeys(k for frame in frames for k in frame.probabilities) if label not in used]
    panels = []
    for label in rest[:_MANY_PANELS]:
        candidates = tuple(dict.fromkeys(name for frame in frames for name in frame.probabilities.get(label, {})))
        panels.append(HeatPanel(label=label, candidates=candidates, values=_values(label, candidates, frames)))
    if panels:
        which = "every choice" if len(panels) == len(rest) else f"the first {len(panels)} of {len(rest)} choices"
        pictures.append(
            Picture(
                slug="alphas",
                title="α over epochs",
                caption=f"Probability of every candidate (rows) of {which} (panels) over the epochs.",
                wide=panels_scene("Choices", panels, epochs, n_inputs=None, width=880.0),
                narrow=panels_scene("Choices", panels, epochs, n_inputs=None, width=356.0),
            )
        )
    return pictures


def _values(label: str, candidates: Sequence[str], frames: Sequence[Frame]) -> np.ndarray:
    rows = [[frame.probabilities.get(label, {}).get(name, math.nan) for name in candidates] for frame in frames]
    return np.array(rows, dtype=np.float64).reshape(len(frames), len(candidates)).T


def curve_pictures(table: Table) -> list[Picture]:
    """Return a chart of each group of columns of `metrics.csv`, known and unknown ones, and of budgets.

    What a run did not have, such as skipped steps or paths to drop, needs no chart.
    """
    columns = {name: column for name, column in table.columns.items() if name not in _IF_ANY or any(column)}
    table = Table(epochs=table.epochs, columns=columns)
    return _charts(table, [*_CURVES, *_other_curves(table, _CURVES)])


def timing_pictures(table: Table) -> list[Picture]:
    """Return a chart of each group of columns of `timings.csv`."""
    return _charts(table, [*_TIMINGS, *_other_curves(table, _TIMINGS)])


def _charts(table: Table, curves: _Curves) -> list[Picture]:
    pictures = []
    for name, title, columns, kind in curves:
        series = [
            Series(name=text, values=table.columns[column], role=SERIES[k % len(SERIES)])
            for k, (column, text) in enumerate(each for each in columns if each[0] in table.columns)
        ]
        if series:
            percent, zero = kind in ("percent", "share"), kind in ("amount", "share")
            scene = line_chart(title, [epoch + 1 for epoch in table.epochs], series, percent=percent, zero=zero)
            pictures.append(Picture(slug=name, title=title, caption="", wide=scene))
    return pictures


def _other_curves(table: Table, known: _Curves) -> _Curves:
    """A chart for each further metric, its halves of the data together, and a cost of a table with its budget."""
    taken = {column for _, _, columns, _ in known for column, _ in columns}
    groups: dict[str, list[tuple[str, str]]] = {}
    for column in table.columns:
        if column not in taken:
            half, _, name = column.partition("_")
            found = half in (*HALVES, *_OF_A_COST) and bool(name)
            told = HALVES.get(half, half) if found else column
            groups.setdefault(name if found else column, []).append((column, told))
    return [("metric-" + slug(name), name, tuple(columns), "plain") for name, columns in groups.items()]


def class_names(run: Run, n_classes: int) -> list[str]:
    """Return the names of the classes, numbers where the run names none."""
    return list(run.classes) if len(run.classes) == n_classes else [str(k) for k in range(n_classes)]


def of_images(run: Run) -> bool:
    """Whether the inputs are images; runs that say nothing are of before there were others."""
    return run.summary.get("image_shape", ()) is not None


def unit_of(run: Run) -> str:
    """Return what is classified: an image or another sample, or a pixel or another position of one."""
    if run.shows == "positions":
        return "pixel" if of_images(run) else "position"
    return "image" if of_images(run) else "sample"


def confusion_pictures(run: Run) -> list[Picture]:
    """Return the confusion matrix of a retraining on classes; none without predictions."""
    if run.predictions is None:
        return []
    counts = run.predictions.counts
    names = class_names(run, len(counts))
    picture = Picture(
        slug="confusion",
        title="Confusion matrix",
        caption=f"{unit_of(run).capitalize()}s of each true class (rows) by predicted class (columns); "
        "the stronger the colour, the larger the share of the class.",
        wide=confusion_scene(counts, names),
        narrow=confusion_scene(counts, names, narrow=True),
    )
    return [picture]


def residual_pictures(run: Run) -> list[Picture]:
    """Return the residuals over the true values, a picture each of the first values; none of other tasks."""
    if run.outputs is None or run.shows != "values":
        return []
    targets, outputs = run.outputs.targets, run.outputs.outputs
    names = class_names(run, targets.shape[1])
    pictures = []
    for k, name in enumerate(names[:_MOST_VALUES]):
        scenes = [residual_scene(name, targets[:, k], outputs[:, k], narrow=narrow) for narrow in (False, True)]
        picture = Picture(
            slug=f"residuals-{slug(name)}" if len(names) > 1 else "residuals",
            title=f"Residuals of {name}",
            caption="Predicted minus true value of each test sample, over the true value; where all is right it is 0.",
            wide=scenes[0],
            narrow=scenes[1],
        )
        pictures.append(picture)
    return pictures
