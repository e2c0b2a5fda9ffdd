"""Heat maps: probabilities of candidates over the epochs, and confusion matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from archgrad.report.cell_drawing import short_operation, state_name
from archgrad.report.charts import nice_ticks, plot_marks
from archgrad.report.scene import LIGHT, Box, Group, Item, Label, Raster, Scene, clean_text, shorten, text_width

__all__ = ["HeatPanel", "cell_heat_scene", "confusion_scene", "heat_pixels", "panels_scene"]

_ROW = 11.5
_NAME = 10.5
_SMALL = 11.0
_MANY_CLASSES = 20


@dataclass(frozen=True, kw_only=True)
class HeatPanel:
    """Probabilities of the candidates of one choice."""

    label: str
    candidates: tuple[str, ...]
    values: np.ndarray
    """(candidates, epochs), in [0, 1]; NaN where unknown."""
    edge: tuple[int, int] | None = None
    """(source, node) where the choice is an edge of a cell."""


def heat_pixels(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return one colour whose opacity is that of the value between two limits, for light and for dark ground.

    Args:
        values: (rows, columns); NaN is transparent.
        low: Value of no opacity.
        high: Value of full opacity, above `low`.
    """
    colour = LIGHT["heat"]
    pixels = np.empty((*values.shape, 4), dtype=np.uint8)
    pixels[..., :3] = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    pixels[..., 3] = np.round(255 * np.clip((np.nan_to_num(values, nan=low) - low) / (high - low), 0, 1)).astype(
        np.uint8
    )
    return pixels


def cell_heat_scene(label: str, panels: Sequence[HeatPanel], epochs: Sequence[int], *, n_inputs: int) -> Scene:
    """Draw a cell's edges as a triangle of panels: a row for each source, a column for each node.

    Args:
        label: The cell's label.
        panels: Its edges, with equal candidates.
        epochs: One for each column of the panels' values.
        n_inputs: Number of inputs of the cell.
    """
    limits = _limits(panels)
    sources = sorted({panel.edge[0] for panel in panels if panel.edge})
    nodes = sorted({panel.edge[1] for panel in panels if panel.edge})
    names = [shorten(name, size=_NAME, width=110.0) for name in panels[0].candidates]
    room = max(text_width(name, size=_NAME) for name in names) + 8.0
    width = min(max(780.0 / len(nodes) - 14.0, 60.0), 190.0)
    height = _ROW * len(names)
    left, head = 64.0 + room, 56.0
    items: list[Item] = [
        Label(x=4.0, y=12.0, text=shorten(label, size=13.0, width=300.0), size=13.0, anchor="start", bold=True)
    ]
    for column, node in enumerate(nodes):
        x = left + column * (width + 14.0) + width / 2
        items.append(Label(x=x, y=head - 14.0, text=f"to node {node}", size=_SMALL, fill="muted"))
    for row, source in enumerate(sources):
        y = head + row * (height + 12.0)
        text, subscript = state_name(source, n_inputs)
        row_panels = sorted((p for p in panels if p.edge and p.edge[0] == source), key=lambda p: p.edge or (0, 0))
        for k, panel in enumerate(row_panels):
            assert panel.edge is not None
            x = left + nodes.index(panel.edge[1]) * (width + 14.0)
            if k == 0:
                items += _row_names(names, panel.candidates, x - 6.0, y)
                middle = x - room - 8.0
                items.append(
                    Label(x=middle, y=y + height / 2 - 8, text="from", size=_SMALL, fill="muted", anchor="end")
                )
                items.append(Label(x=middle - 18.0, y=y + height / 2 + 9, text=text, size=13.0, subscript=subscript))
            items.append(_panel(panel, x, y, width, height, epochs, limits))
    bottom = head + len(sources) * (height + 12.0)
    items += _epoch_axis(epochs, left + (len(nodes) - 1) * (width + 14.0), bottom - 4.0, width)
    items += _colour_bar(left, bottom - height, limits)
    total = left + len(nodes) * (width + 14.0)
    name = f"Probabilities of the operations on the {len(panels)} edges of cell {clean_text(label)} over epochs"
    return Scene(width=total, height=bottom + 26.0, items=tuple(items), name=name)


def panels_scene(
    title: str, panels: Sequence[HeatPanel], epochs: Sequence[int], *, n_inputs: int | None, width: float
) -> Scene:
    """Draw panels next to each other, each with its candidates' names.

    Args:
        title: Heading of the picture.
        panels: Any choices.
        epochs: One for each column of the panels' values.
        n_inputs: Inputs of the cell whose edges these are; None for other choices.
        width: Width of the picture; as many panels stand side by side as fit.
    """
    limits = _limits(panels)
    short = [[short_operation(name) for name in panel.candidates] for panel in panels]
    names = [[shorten(name, size=_NAME, width=80.0) for name in row] for row in short]
    room = max((text_width(name, size=_NAME) for row in names for name in row), default=20.0) + 8.0
    columns = max(1, round((width + 12.0) / 270.0)) if width > 400 else 2 if room < 72.0 else 1
    step = (width - 4.0) / columns
    plot = min(step - room - 10.0, 220.0)
    items: list[Item] = [
        Label(x=4.0, y=12.0, text=shorten(title, size=13.0, width=width - 10.0), size=13.0, anchor="start", bold=True)
    ]
    y = 34.0
    for start in range(0, len(panels), columns):
        row = range(start, min(start + columns, len(panels)))
        for k in row:
            x = 4.0 + (k - start) * step + room
            items += _panel_title(panels[k], x, y, plot, n_inputs)
            items += _row_names(names[k], panels[k].candidates, x - 6.0, y + 12.0)
            items.append(_panel(panels[k], x, y + 12.0, plot, _ROW * len(names[k]), epochs, limits))
        y += 12.0 + _ROW * max(len(names[k]) for k in row) + 20.0
    items += _epoch_axis(epochs, 4.0 + room, y - 10.0, plot)
    items += _colour_bar(4.0 + room, y + 30.0, limits)
    return Scene(width=width, height=y + 56.0, items=tuple(items), name=f"{title}: probabilities over epochs")


def _limits(panels: Sequence[HeatPanel]) -> tuple[float, float]:
    """Round values around all probabilities, from 0 unless all are far from it."""
    known = np.concatenate([panel.values[np.isfinite(panel.values)] for panel in panels])
    if not known.size:
        return 0.0, 1.0
    least, most = float(known.min()), max(float(known.max()), 0.05)
    ticks = nice_ticks(least if least > 0.4 * most else 0.0, most, 3)
    return ticks[0], 1.0 if ticks[-1] > 1.0 >= most else ticks[-1]


def _panel(
    panel: HeatPanel,
    x: float,
    y: float,
    width: float,
    height: float,
    epochs: Sequence[int],
    limits: tuple[float, float],
) -> Group:
    marks = plot_marks(x, y, width, height, epochs[0], epochs[-1]) | {"data-kind": "heat", "data-label": panel.label}
    return Group(
        items=(
            Raster(x=x, y=y, width=width, height=height, pixels=heat_pixels(panel.values, *limits)),
            Box(x=x, y=y, width=width, height=height, stroke="faint", stroke_width=0.8),
            *_lacking(panel, x, y, width),
        ),
        marks=marks,
    )


def _lacking(panel: HeatPanel, x: float, y: float, width: float) -> list[Item]:
    """Lines through the rows of candidates that the choice does not have."""
    lacking = np.flatnonzero(~np.isfinite(panel.values).any(axis=1))
    return [Box(x=x, y=y + (k + 0.5) * _ROW - 0.5, width=width, height=1.0, fill="faint") for k in lacking.tolist()]


def _panel_title(panel: HeatPanel, x: float, y: float, width: float, n_inputs: int | None) -> list[Item]:
    if panel.edge is None or n_inputs is None:
        text = shorten(panel.label, size=_SMALL, width=width)
        return [Label(x=x, y=y, text=text, size=_SMALL, anchor="start", title=panel.label)]
    text, subscript = state_name(panel.edge[0], n_inputs)
    end = x + text_width(text, size=12.0) + text_width(subscript, size=9.0) + 4.0
    return [
        Label(x=x, y=y, text=text, size=12.0, anchor="start", subscript=subscript),
        Label(x=end, y=y, text=f"→ {panel.edge[1]}", size=12.0, anchor="start"),
    ]


def _row_names(names: Sequence[str], full: Sequence[str], x: float, y: float) -> list[Item]:
    return [
        Label(x=x, y=y + (k + 0.5) * _ROW, text=name, size=_NAME, anchor="end", fill="muted", title=full[k])
        for k, name in enumerate(names)
    ]


def _epoch_axis(epochs: Sequence[int], x: float, y: float, width: float) -> list[Item]:
    items: list[Item] = [Label(x=x, y=y, text=str(epochs[0]), size=_SMALL, anchor="start", fill="muted")]
    if epochs[-1] != epochs[0]:
        items.append(Label(x=x + width, y=y, text=str(epochs[-1]), size=_SMALL, anchor="end", fill="muted"))
    items.append(Label(x=x + width / 2, y=y, text="epoch", size=_SMALL, fill="muted"))
    return items


def _colour_bar(x: float, y: float, limits: tuple[float, float]) -> list[Item]:
    ramp = heat_pixels(np.linspace(0.0, 1.0, 64)[None, :], 0.0, 1.0)
    return [
        Label(x=x, y=y - 14.0, text="probability", size=_SMALL, anchor="start", fill="muted"),
        Raster(x=x, y=y, width=130.0, height=9.0, pixels=ramp),
        Box(x=x, y=y, width=130.0, height=9.0, stroke="faint", stroke_width=0.8),
        Label(x=x, y=y + 18.0, text=f"{limits[0]:g}", size=_SMALL, anchor="start", fill="muted"),
        Label(x=x + 130.0, y=y + 18.0, text=f"{limits[1]:g}", size=_SMALL, anchor="end", fill="muted"),
    ]


def confusion_scene(counts: np.ndarray, classes: Sequence[str], *, narrow: bool = False) -> Scene:
    """Draw how often each class is taken for each other: shades of its share of a class, numbers where they fit.

    Args:
        counts: (classes, classes), rows are the true class, columns the predicted one.
        classes: Names, one a class.
        narrow: For a screen of 400 pixels.
    """
    n = len(classes)
    few = n <= _MANY_CLASSES
    names = [shorten(name, size=_SMALL, width=60.0 if narrow else 110.0) for name in classes]
    room = max(text_width(name, size=_SMALL) for name in names) + 8.0 if few else 12.0
    side = (356.0 if narrow else 560.0) - room - 24.0
    cell = min(side / n, 44.0)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    left, head = 22.0 + room, 24.0 + (room if few else 6.0)
    size = cell * n
    items: list[Item] = [
        Label(x=left + size / 2, y=10.0, text="predicted class", size=_SMALL, fill="muted"),
        Label(x=10.0, y=head + size / 2, text="true class", size=_SMALL, fill="muted", turned=True),
        Raster(x=left, y=head, width=size, height=size, pixels=heat_pixels(np.sqrt(share), 0.0, 1.0)),
        Box(x=left, y=head, width=size, height=size, stroke="faint", stroke_width=0.8),
    ]
    digits = len(str(int(counts.max(initial=0))))
    text_size = min(_SMALL, (cell - 4.0) / max(0.62 * digits, 1.0))
    for row in range(n if few else 0):
        middle = head + (row + 0.5) * cell
        items.append(Label(x=left - 6.0, y=middle, text=names[row], size=_SMALL, anchor="end"))
        items.append(
            Label(x=left + (row + 0.5) * cell, y=head - 6.0, text=names[row], size=_SMALL, anchor="start", turned=True)
        )
        for column in range(n):
            if counts[row, column] and text_size >= 9.0:
                dark = math.sqrt(share[row, column]) > 0.5
                items.append(
                    Label(
                        x=left + (column + 0.5) * cell,
                        y=middle,
                        text=str(int(counts[row, column])),
                        size=text_size,
                        fill="on-chosen" if dark else "ink",
                        title=f"{classes[row]} taken for {classes[column]}",
                    )
                )
    name = f"Confusion matrix of {n} classes: {int(np.trace(counts))} of {int(counts.sum())} right"
    return Scene(width=left + size + 8.0, height=head + size + 8.0, items=tuple(items), name=name)
