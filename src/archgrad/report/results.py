"""Results as people look at them: a few lines of text, and drawings in a notebook."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from archgrad.architecture import Architecture
from archgrad.decision import candidate_name, cell_nodes, outside_cells
from archgrad.errors import OptionError, RunError
from archgrad.files import partial_file
from archgrad.report.charts import format_value
from archgrad.report.pictures import architecture_pictures, curve_pictures
from archgrad.report.raster import scene_png
from archgrad.report.read import Table, read_probabilities
from archgrad.report.scene import Group, Scene, stack
from archgrad.report.svg import svg_file
from archgrad.show import to_text

__all__ = ["Figure", "Viewed", "architecture_figure", "architecture_scene", "write_at_once"]

_GAP = 18.0


class Figure:
    """A drawing: a notebook shows it as the last value of a cell, and `save` writes it.

    Args:
        scene: What is drawn.
    """

    def __init__(self, scene: Scene) -> None:
        self._scene = scene

    def __repr__(self) -> str:
        return f"Figure({self._scene.width:.0f}x{self._scene.height:.0f}: save(path) writes it as .png or .svg)"

    def _repr_html_(self) -> str:
        return f'<div style="overflow-x:auto">{self.to_svg().partition("?>")[2]}</div>'

    def to_svg(self) -> str:
        """Return the drawing as the text of an SVG file."""
        return svg_file(self._scene)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the drawing.

        Args:
            path: A file ending in .png or .svg; its folder must exist.

        Raises:
            OptionError: The ending is another one.
            RunError: The file cannot be written.
        """
        place = Path(path)
        kind = place.suffix.lower()
        if kind not in (".png", ".svg"):
            raise OptionError(f"A picture ends in .png or .svg, but got '{place}'. Rename it.")
        content = scene_png(self._scene) if kind == ".png" else self.to_svg().encode("utf-8")
        try:
            write_at_once(place, content)
        except OSError as error:
            raise RunError(
                f"The picture cannot be written to '{place}': {error.strerror}. "
                f"Name a file in an existing folder with write access and free space."
            ) from error
        return place


def architecture_figure(architecture: Architecture) -> Figure:
    """Return the drawing of an architecture's cells and choices.

    Raises:
        OptionError: It has no choices.
    """
    return Figure(architecture_scene(architecture))


def architecture_scene(architecture: Architecture) -> Scene:
    """Return the drawing of an architecture as data; errors as `architecture_figure`."""
    pictures = architecture_pictures(architecture, read_probabilities(architecture.provenance))
    if not pictures:
        raise OptionError("An architecture without choices has nothing to draw. Name one with at least one choice.")
    name = "; ".join(picture.wide.name for picture in pictures)
    return stack([picture.wide for picture in pictures], name=name)


class Viewed:
    """What results of runs have in common: how they are printed, drawn and shown."""

    architecture: Architecture | None
    history: list[dict[str, Any]]
    run_dir: Path | None

    def __repr__(self) -> str:
        """Return at most six lines: architecture, last figures, and where the run lies."""
        epochs = f"{len(self.history)} epoch{'s' if len(self.history) != 1 else ''}"
        lines = [f"{type(self).__name__} after {epochs}{self._remark()}"]
        if self.architecture is not None:
            lines.append(f"  architecture: {_short(self.architecture)}")
        if self.history:
            lines += _last_figures(self.history[-1])
        lines.append(f"  run folder: {'none' if self.run_dir is None else self.run_dir}")
        lines.append("  .show() and .plot() show it")
        return "\n".join(lines)

    def _remark(self) -> str:
        """Return what must be said beside the number of epochs."""
        return ""

    def _repr_html_(self) -> str:
        scenes = [] if self.architecture is None or not self.architecture.choices else [self.architecture]
        drawn = [architecture_figure(architecture)._repr_html_() for architecture in scenes]
        curves = [self.plot()._repr_html_()] if self._charts() else []
        text = repr(self).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        return "".join([f"<pre>{text}</pre>", *drawn, *curves])

    def plot(self) -> Figure:
        """Return the curves of the run over its epochs as a drawing.

        Raises:
            OptionError: No epoch is finished.
        """
        charts = self._charts()
        if not charts:
            raise OptionError("There are no curves before the first epoch is finished.")
        return Figure(_in_two_columns(charts))

    def show(self) -> None:
        """Print the architecture and the last figures; in a notebook show the drawings, too."""
        if self.architecture is not None:
            print(to_text(self.architecture))
        print(self)
        try:
            from IPython import get_ipython  # only where someone runs it is it there
            from IPython.display import HTML, display
        except ImportError:
            return
        if get_ipython() is not None and hasattr(get_ipython(), "kernel"):
            display(HTML(self._repr_html_()))

    def _charts(self) -> list[Scene]:
        return [picture.wide for picture in curve_pictures(_table(self.history))]


def _table(history: Sequence[Mapping[str, Any]]) -> Table:
    names = list(dict.fromkeys(name for row in history for name in row if name != "epoch"))
    columns = {name: tuple(_number(row.get(name)) for row in history) for name in names}
    return Table(
        epochs=tuple(int(row.get("epoch", k)) for k, row in enumerate(history)),
        columns={name: column for name, column in columns.items() if not all(map(math.isnan, column))},
    )


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


def _short(architecture: Architecture, most: int = 90) -> str:
    parts = []
    for label, decision in architecture.choices.items():
        if isinstance(decision, Mapping):
            nodes = cell_nodes(decision)
            edges = sum(len(kept) for kept in nodes.values())
            taken = f"cell of {len(nodes)} nodes and {edges} edges"
        else:
            taken = candidate_name(decision) or f"inputs {', '.join(outside_cells(decision))}"
        parts.append(f"{label} = {taken}")
    text = f"{architecture.space or 'unnamed space'}: {'; '.join(parts) or 'no choices'}"
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return text if len(text) <= most else text[: most - 1] + "…"


def _last_figures(row: Mapping[str, Any]) -> list[str]:
    """Lines for training and for what was measured on other data."""
    lines = []
    for half in ("train", "valid", "test"):
        named = [
            f"{name.removeprefix(half + '_')} {format_value(float(value), percent=name.endswith('_accuracy'))}"
            for name, value in row.items()
            if name.startswith(half + "_") and isinstance(value, (int, float))
        ]
        if named:
            lines.append(f"  {half}: {', '.join(named[:4])}")
    return lines[:2]


def _in_two_columns(scenes: Sequence[Scene]) -> Scene:
    width = max(scene.width for scene in scenes) + _GAP
    items: list[Group] = []
    y = 0.0
    for start in range(0, len(scenes), 2):
        row = scenes[start : start + 2]
        items += [Group(items=scene.items, x=k * width, y=y) for k, scene in enumerate(row)]
        y += max(scene.height for scene in row) + _GAP
    name = "; ".join(scene.name for scene in scenes)
    return Scene(width=2 * width - _GAP, height=y - _GAP, items=tuple(items), name=name)


def write_at_once(path: Path, content: bytes) -> None:
    """Write in one stroke: who looks at an earlier report meanwhile sees the old file or the new one."""
    with partial_file(path) as partial:
        partial.write_bytes(content)
