"""Pictures as data: a few primitives in pixels, drawn alike as SVG (`svg.py`) and as PNG (`raster.py`).

Colours are roles, not values, so that one picture serves a light page, a dark page and paper.
"""

from __future__ import annotations

import bisect
import itertools
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from archgrad.report.glyphs import advance

__all__ = [
    "LIGHT",
    "SERIES",
    "Box",
    "Curve",
    "Group",
    "Item",
    "Label",
    "Picture",
    "Raster",
    "Scene",
    "clean_text",
    "operation_roles",
    "shorten",
    "stack",
    "text_width",
]

LIGHT: dict[str, str] = {
    "surface": "#ffffff",
    "ink": "#1c1c1a",
    "muted": "#62615b",
    "faint": "#c9c8c1",
    "grid": "#e6e5df",
    "unkept": "#dcdbd5",
    "input": "#e3efe4",
    "input-edge": "#5c8a64",
    "node": "#e4edf8",
    "node-edge": "#4d76a8",
    "chosen": "#1f5fae",
    "on-chosen": "#ffffff",
    "heat": "#0b57b0",
    "c1": "#2a78d6",
    "c2": "#e2622c",
    "c3": "#16996b",
    "c4": "#d69200",
    "c5": "#d9568a",
    "c6": "#4a3aa7",
    "c7": "#d03b3b",
    "c8": "#5d7a16",
}
"""Role -> colour on paper; the page gives the same roles darker values in dark mode (`assets/report.css`)."""

SERIES = tuple(f"c{i}" for i in range(1, 9))
"""Roles of series, told apart by readers with any colour vision when taken in this order."""

_PAPER_ROLES = {
    "none": "faint",
    "max_pool_3x3": "c2",
    "avg_pool_3x3": "c4",
    "skip_connect": "c3",
    "sep_conv_3x3": "c1",
    "sep_conv_5x5": "c6",
    "dil_conv_3x3": "c5",
    "dil_conv_5x5": "c7",
}

_MOST_SIGNS = 1000  # of a name in a picture

Command = tuple[Any, ...]
Anchor = Literal["start", "middle", "end"]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A line or a filled outline."""

    commands: tuple[Command, ...]
    """("M", x, y), ("L", x, y), ("C", x1, y1, x2, y2, x, y) or ("Z",)."""
    stroke: str | None = "ink"
    width: float = 1.0
    fill: str | None = None
    opacity: float = 1.0
    dash: tuple[float, ...] = ()
    marks: Mapping[str, str] = field(default_factory=dict)
    """Attributes for the page's script: "class" and "data-..."."""
    title: str = ""


@dataclass(frozen=True, kw_only=True)
class Box:
    """A rectangle with round corners."""

    x: float
    y: float
    width: float
    height: float
    radius: float = 0.0
    fill: str | None = None
    stroke: str | None = None
    stroke_width: float = 1.0
    opacity: float = 1.0
    marks: Mapping[str, str] = field(default_factory=dict)
    title: str = ""


@dataclass(frozen=True, kw_only=True)
class Label:
    """One line of text, centred vertically on y."""

    x: float
    y: float
    text: str
    size: float = 12.0
    anchor: Anchor = "middle"
    fill: str = "ink"
    bold: bool = False
    halo: bool = False
    """Draw the background around the letters, so that a line below them does not strike them out."""
    subscript: str = ""
    turned: bool = False
    """Read from bottom to top."""
    marks: Mapping[str, str] = field(default_factory=dict)
    title: str = ""


@dataclass(frozen=True, kw_only=True)
class Raster:
    """An image of colour cells that stay sharp when enlarged."""

    x: float
    y: float
    width: float
    height: float
    pixels: np.ndarray
    """(rows, columns, 4), uint8, red-green-blue-alpha."""
    marks: Mapping[str, str] = field(default_factory=dict)
    title: str = ""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Items moved together."""

    items: tuple[Item, ...]
    x: float = 0.0
    y: float = 0.0
    marks: Mapping[str, str] = field(default_factory=dict)
    title: str = ""


Item = Curve | Box | Label | Raster | Group


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A drawing of `width` x `height` pixels."""

    width: float
    height: float
    items: tuple[Item, ...]
    name: str
    """What the drawing shows, for readers who do not see it."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One figure of the report: its drawing, the same for a narrow screen, and what it is called."""

    slug: str
    """Name of its files without suffix."""
    title: str
    caption: str
    wide: Scene
    narrow: Scene | None = None


def stack(scenes: Sequence[Scene], *, gap: float = 18.0, name: str) -> Scene:
    """Put drawings below each other.

    Args:
        scenes: At least one.
        gap: Pixels between two of them.
        name: What the whole shows.
    """
    items: list[Item] = []
    y = 0.0
    for scene in scenes:
        items.append(Group(items=scene.items, y=y))
        y += scene.height + gap
    return Scene(width=max(scene.width for scene in scenes), height=y - gap, items=tuple(items), name=name)


def operation_roles(names: Sequence[str]) -> dict[str, str]:
    """Return a colour role for each candidate; the paper's operations have the same one in every picture."""
    roles = {name: _PAPER_ROLES[name] for name in names if name in _PAPER_ROLES}
    free = [role for role in SERIES if role not in roles.values()] or list(SERIES)
    others = [name for name in dict.fromkeys(names) if name not in roles]
    roles.update({name: free[i % len(free)] for i, name in enumerate(others)})
    return roles


def clean_text(text: object) -> str:
    """Return `text` on one line, with a sign in place of each character that XML or a font cannot hold."""
    kept = []
    for sign in str(text):
        if sign in "\n\r\t":
            kept.append(" ")
        elif unicodedata.category(sign) in ("Cc", "Cs", "Cn") or sign in "\ufffe\uffff":
            kept.append("\ufffd")
        else:
            kept.append(sign)
    return "".join(kept)


def shorten(text: object, *, size: float, width: float) -> str:
    """Return `text`, with an ellipsis in its middle where it would be wider than `width` pixels.

    Names that begin alike, such as those of a family of candidates, stay apart by their ends.
    """
    text = clean_text(text)
    room = width / size
    from_left = list(itertools.accumulate(map(advance, text[:_MOST_SIGNS]), initial=0.0))
    if len(text) <= _MOST_SIGNS and from_left[-1] <= room:
        return text
    from_right = list(itertools.accumulate(map(advance, reversed(text[-_MOST_SIGNS:])), initial=0.0))
    room -= advance("…")
    most = min(len(text), _MOST_SIGNS)  # a sign may have no width, so the room alone is no limit
    kept = bisect.bisect_right(range(most), room, key=lambda n: from_left[(n + 1) // 2] + from_right[n // 2]) - 1
    return f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}" if kept > 0 else "…"


def text_width(text: str, *, size: float, bold: bool = False) -> float:
    """Return an upper bound of the width in pixels: that of DejaVu Sans, wider than what browsers use."""
    return sum(advance(sign, bold) for sign in text) * size
