"""Pieces of the page, as HTML text in which every foreign text is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from archgrad.report.cell_drawing import state_name
from archgrad.report.scene import Picture, clean_text
from archgrad.report.svg import escape, svg_inline

__all__ = ["details", "edge_name", "facts", "figure", "grid", "notes", "scroller", "table", "tiles"]


def figure(picture: Picture, *, marks: str = "", head: str = "") -> str:
    """Return a picture with its caption, and its version for narrow screens beside it.

    Args:
        picture: What to show.
        marks: Further attributes of the element, already escaped.
        head: Text above the picture.
    """
    body = f'<p class="head">{escape(head)}</p>' if head else ""
    caption = f"<figcaption>{escape(picture.caption)}</figcaption>" if picture.caption else ""
    if picture.narrow is None:
        body += svg_inline(picture.wide)
    else:
        body += scroller(svg_inline(picture.wide), picture.title, "wide")
        body += scroller(svg_inline(picture.narrow), picture.title, "narrow")
    return f'<figure data-picture="{escape(picture.slug)}"{marks}>{body}{caption}</figure>'


def edge_name(source: int, node: int, n_inputs: int) -> str:
    """Return what an edge joins, as HTML."""
    text, subscript = state_name(source, n_inputs)
    return f"{escape(text)}{f'<sub>{escape(subscript)}</sub>' if subscript else ''} → {node}"


def scroller(content: str, name: str, kind: str = "") -> str:
    """Return content that scrolls within its own frame where it is too wide; the keyboard reaches it."""
    return f'<div class="scroller {kind}" tabindex="0" role="region" aria-label="{escape(name)}">{content}</div>'


def grid(figures: Sequence[str]) -> str:
    """Return small figures side by side."""
    return f'<div class="grid">{"".join(figures)}</div>' if figures else ""


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, name: str, kind: str = "") -> str:
    """Return a table; its cells are HTML already.

    Args:
        header: Text of the columns' heads, escaped here.
        rows: The first cell of a row is its head.
        name: What the table holds.
        kind: Class of the table.
    """
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in header)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>' + "".join(f"<td>{cell}</td>" for cell in row[1:]) + "</tr>" for row in rows
    )
    caption = f'<caption class="unseen">{escape(name)}</caption>'
    content = f'<table class="{kind}">{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return scroller(content, name)


def facts(values: Mapping[str, Any], *, name: str) -> str:
    """Return names with values, such as a configuration."""
    rows = [[escape(key), f"<code>{escape(_plain(value))}</code>"] for key, value in values.items()]
    return table(["Name", "Value"], rows, name=name, kind="facts") if rows else ""


def _plain(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.6g}"
    return clean_text(value)


def tiles(values: Sequence[tuple[str, str]]) -> str:
    """Return a few numbers in large letters: (what it is, the number with its unit)."""
    items = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in values)
    return f'<dl class="tiles">{items}</dl>' if values else ""


def notes(lines: Sequence[str]) -> str:
    """Return remarks that the reader must not overlook."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<ul class="notes">{items}</ul>' if lines else ""


def details(summary: str, content: str, *, opened: bool = False) -> str:
    """Return content that opens and closes on a click."""
    if not content:
        return ""
    state = " open" if opened else ""
    return f"<details{state}><summary>{escape(summary)}</summary>{content}</details>"
