"""Cells as graphs: inputs on the left, nodes in the middle, the output on the right, an operation on each edge."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from archgrad.architecture import CellDecision
from archgrad.decision import cell_nodes, edge_key, edge_row, joined_nodes
from archgrad.report.layout import GraphLayout, LinkPlace, LinkSize, NodeSize, lay_out
from archgrad.report.scene import Box, Command, Curve, Group, Item, Label, Scene, clean_text, shorten, text_width

__all__ = [
    "CellEdge",
    "CellGraph",
    "cell_graph",
    "cell_scene",
    "edge_width",
    "forming_scene",
    "forming_texts",
    "short_operation",
    "state_name",
]

_OUTPUT = "output"
_TEXT = 12.0
_TITLE = 26.0
_LEGEND = 34.0
_LEAST_WIDTH = 330.0
_MARGIN = 6.0


@dataclass(frozen=True, kw_only=True)
class CellEdge:
    """A kept edge of a cell."""

    operation: str
    source: int
    node: int
    strength: float | None = None
    """Probability of the operation on this edge; None where the search left none."""

    @property
    def key(self) -> str:
        """The edge's name within its cell, as in the labels of its alphas."""
        return edge_key(self.source, self.node)


@dataclass(frozen=True, kw_only=True)
class CellGraph:
    """A cell as it is drawn."""

    label: str
    n_inputs: int
    n_nodes: int
    edges: tuple[CellEdge, ...]
    joined: tuple[int, ...]
    """Nodes that make up the output."""


def cell_graph(
    label: str, decision: Mapping[str, Sequence[Any]], probabilities: Mapping[str, Mapping[str, float]] | None = None
) -> CellGraph:
    """Return a cell's graph.

    Args:
        label: The cell's label.
        decision: Its decision in an architecture.
        probabilities: Edge label -> {candidate: probability}; edges that are missing have no strength.
    """
    cell = cast(CellDecision, decision)
    nodes = cell_nodes(cell)
    edges = []
    for node, pairs in nodes.items():
        for operation, source in pairs:
            row = (probabilities or {}).get(edge_row(label, source, node), {})
            edges.append(CellEdge(operation=operation, source=source, node=node, strength=row.get(operation)))
    return CellGraph(
        label=label, n_inputs=min(nodes), n_nodes=len(nodes), edges=tuple(edges), joined=joined_nodes(cell)
    )


def state_name(state: int | None, n_inputs: int) -> tuple[str, str]:
    """Return (letter, subscript) of a state as papers write it; None is the cell's output.

    States are c_{k-2} and c_{k-1} for the outputs of the cells before; nodes have the numbers that
    they have in the architecture's file and in the terminal, which come after those of the inputs.
    """
    if state is None:
        return "c", "k"
    if state < n_inputs:
        return "c", f"k-{n_inputs - state}"
    return str(state), ""


def edge_width(strength: float | None) -> float:
    """Return the width in pixels of an edge of a probability in [0, 1]."""
    return 2.0 if strength is None else 1.0 + 8.0 * min(max(strength, 0.0), 1.0)


def short_operation(name: str) -> str:
    """Return a name for narrow drawings, "sep 3×3" for "sep_conv_3x3"."""
    match = re.fullmatch(r"(sep|dil|max|avg)_(?:conv|pool)_(\d+)x(\d+)", name)
    if match:
        return f"{match[1]} {match[2]}×{match[3]}"
    return {"skip_connect": "skip"}.get(name, name)


def cell_scene(graph: CellGraph, *, roles: Mapping[str, str], narrow: bool = False) -> Scene:
    """Draw a derived cell with its kept edges, and the nodes that have any.

    Args:
        graph: The cell.
        roles: Candidate -> colour role.
        narrow: Draw from top to bottom with short names, for a screen of 400 pixels.
    """
    names = [short_operation(edge.operation) if narrow else edge.operation for edge in graph.edges]
    texts = [shorten(name, size=_TEXT, width=64.0 if narrow else 150.0) for name in names]
    links = [
        (edge.source, edge.node, text_width(text, size=_TEXT)) for edge, text in zip(graph.edges, texts, strict=True)
    ]
    layout = _layout(graph.n_inputs, graph.n_nodes, tuple(links), graph.joined, narrow, 14.0)
    drawing = _Drawing(layout, narrow)
    body = drawing.output_edges(graph, len(links))
    for edge, place in zip(graph.edges, layout.links, strict=False):
        marks = {"data-edge": edge.key}
        role, width = roles.get(edge.operation, "muted"), edge_width(edge.strength)
        body.append(drawing.edge(place, role, width, {"class": "edge", **marks}))
        body.append(drawing.tip(place, role, width, {"class": "tip", **marks}))
    for edge, text, place in zip(graph.edges, texts, layout.links, strict=False):
        body.append(drawing.edge_label(place, text, _edge_title(edge, graph.n_inputs), {"data-edge": edge.key}))
    body += drawing.nodes(graph)
    width, height = max(drawing.width, _LEAST_WIDTH), drawing.height
    items: list[Item] = [_heading(graph.label), Group(items=tuple(body), x=(width - drawing.width) / 2)]
    if any(edge.strength is not None for edge in graph.edges):
        items += _width_legend(height)
        height += _LEGEND
    name = f"Cell {clean_text(graph.label)}: " + "; ".join(_edge_title(edge, graph.n_inputs) for edge in graph.edges)
    return Scene(width=width, height=height, items=tuple(items), name=name)


def forming_scene(
    graph: CellGraph,
    pairs: Sequence[tuple[int, int]],
    *,
    roles: Mapping[str, str],
    candidates: Sequence[str],
    narrow: bool = False,
) -> Scene:
    """Draw a cell with all its edges, the kept ones coloured: the places stay while the page's slider changes edges.

    Args:
        graph: The cell at the epoch shown first.
        pairs: (source, node) of every edge that the search knows.
        roles: Candidate -> colour role.
        candidates: Every name that may stand on an edge.
        narrow: As for `cell_scene`.
    """
    texts = dict(zip(candidates, forming_texts(candidates, narrow=narrow), strict=True))
    room = max((text_width(text, size=_TEXT) for text in texts.values()), default=20.0)
    links = tuple((source, node, room) for source, node in pairs)
    layout = _layout(graph.n_inputs, graph.n_nodes, links, graph.joined, narrow, 8.0)
    drawing = _Drawing(layout, narrow)
    kept = {(edge.source, edge.node): edge for edge in graph.edges}
    items: list[Item] = [_heading(graph.label)]
    items += drawing.output_edges(graph, len(links))
    front: list[Item] = []
    for pair, place in zip(pairs, layout.links, strict=False):
        edge = kept.get(pair)
        marks = {"data-edge": edge_key(*pair)}
        role = roles.get(edge.operation, "muted") if edge else "unkept"
        width = edge_width(edge.strength) if edge else 1.0
        state = " kept" if edge else ""
        items.append(drawing.edge(place, role, width, {"class": "edge" + state, **marks}))
        front.append(drawing.tip(place, role, width, {"class": "tip" + state, **marks}))
        text = texts[edge.operation] if edge else ""
        title = _edge_title(edge, graph.n_inputs) if edge else ""
        front.append(drawing.edge_label(place, text, title, {"class": "edge-label", **marks}))
    items += front + drawing.nodes(graph)
    return Scene(
        width=drawing.width,
        height=drawing.height,
        items=tuple(items),
        name=f"Cell {clean_text(graph.label)} as it forms: all edges, the kept ones with their operation",
    )


def forming_texts(candidates: Sequence[str], *, narrow: bool) -> list[str]:
    """Return what stands on the edges for each candidate: its name, cut to the room that a label has."""
    names = [short_operation(name) if narrow else name for name in candidates]
    return [shorten(name, size=_TEXT, width=_room(narrow)) for name in names]


def _room(narrow: bool) -> float:
    return 64.0 if narrow else 150.0


def _edge_title(edge: CellEdge, n_inputs: int) -> str:
    source, subscript = state_name(edge.source, n_inputs)
    strength = "" if edge.strength is None else f", probability {edge.strength:.3f}"
    return f"{edge.operation} from {source}{f'_{subscript}' if subscript else ''} to {edge.node}{strength}"


def _heading(label: str) -> Label:
    text = shorten(label, size=13.0, width=280.0)
    return Label(x=_MARGIN, y=11.0, text=text, size=13.0, anchor="start", bold=True)


def _width_legend(top: float) -> list[Item]:
    items: list[Item] = [
        Label(x=_MARGIN, y=top + 20.0, text="width: probability", size=_TEXT, anchor="start", fill="muted")
    ]
    x = _MARGIN + text_width("width: probability", size=_TEXT) + 14.0
    for strength in (0.1, 0.3, 0.6):
        points = (("M", x, top + 20.0), ("L", x + 22.0, top + 20.0))
        items.append(Curve(commands=points, stroke="muted", width=edge_width(strength)))
        items.append(Label(x=x + 28.0, y=top + 20.0, text=f"{strength:g}", size=_TEXT, anchor="start", fill="muted"))
        x += 62.0
    return items


@functools.lru_cache(maxsize=256)
def _layout(
    n_inputs: int,
    n_nodes: int,
    links: tuple[tuple[int, int, float], ...],
    joined: tuple[int, ...],
    narrow: bool,
    port_gap: float,
) -> GraphLayout:
    """Places of a cell; the same structure, such as that of every search in one space, is laid out once."""
    text_height = 18.0
    nodes = []
    reached = {node for _, node, _ in links}
    for state in (state for state in range(n_inputs + n_nodes) if state < n_inputs or state in reached):
        wide = 46.0 if state < n_inputs else 34.0
        nodes.append(NodeSize(key=str(state), along=26.0 if narrow else wide, across=wide if narrow else 34.0))
    nodes.append(NodeSize(key=_OUTPUT, along=26.0 if narrow else 46.0, across=46.0 if narrow else 34.0))
    sizes = [
        LinkSize(
            source=str(source),
            target=str(node),
            label_along=text_height if narrow else room + 10.0,
            label_across=room + 2.0 if narrow else text_height,
        )
        for source, node, room in links
    ]
    sizes += [LinkSize(source=str(node), target=_OUTPUT) for node in joined]
    channel = 20.0 if narrow else 28.0
    return lay_out(
        nodes, sizes, last=_OUTPUT, channel=channel, gap=5.0 if narrow else 8.0, port_gap=port_gap, compact=narrow
    )


class _Drawing:
    """Turns places along and across the flow into items."""

    def __init__(self, layout: GraphLayout, narrow: bool) -> None:
        self.layout, self.narrow = layout, narrow
        self.width = (layout.across if narrow else layout.along) + 2 * _MARGIN
        self.height = (layout.along if narrow else layout.across) + 2 * _MARGIN + _TITLE

    def _at(self, along: float, across: float) -> tuple[float, float]:
        x, y = (across, along) if self.narrow else (along, across)
        return x + _MARGIN, y + _MARGIN + _TITLE

    def edge(self, place: LinkPlace, role: str, width: float, marks: Mapping[str, str]) -> Curve:
        points = list(place.points)
        points[-1] = (points[-1][0] - 6.0, points[-1][1])  # ends within its tip
        commands: list[Command] = [("M", *self._at(*points[0]))]
        for i in range(1, len(points)):
            (u0, v0), (u1, v1) = points[i - 1], points[i]
            if i % 2 or abs(v0 - v1) < 0.01:
                if u1 != u0:
                    commands.append(("L", *self._at(u1, v1)))
                continue
            middle = (u0 + u1) / 2
            commands.append(("C", *self._at(middle, v0), *self._at(middle, v1), *self._at(u1, v1)))
        return Curve(commands=tuple(commands), stroke=role, width=width, marks=marks)

    def tip(self, place: LinkPlace, role: str, width: float, marks: Mapping[str, str]) -> Curve:
        along, across = place.points[-1]
        half = 3.0 + width / 2
        corners = [(along, across), (along - 9.0, across - half), (along - 9.0, across + half)]
        points = [self._at(*corner) for corner in corners]
        commands = (("M", *points[0]), ("L", *points[1]), ("L", *points[2]), ("Z",))
        return Curve(commands=commands, stroke=None, fill=role, marks=marks)

    def edge_label(self, place: LinkPlace, text: str, title: str, marks: Mapping[str, str]) -> Label:
        assert place.label is not None
        x, y = self._at(*place.label)
        return Label(x=x, y=y, text=text, size=_TEXT, halo=True, marks=marks, title=title)

    def output_edges(self, graph: CellGraph, first: int) -> list[Item]:
        items: list[Item] = []
        for node, place in zip(graph.joined, self.layout.links[first:], strict=True):
            marks = {"data-edge": f"{node}->{_OUTPUT}"}
            items.append(self.edge(place, "faint", 1.4, {"class": "join", **marks}))
            items.append(self.tip(place, "faint", 1.4, {"class": "join-tip", **marks}))
        return items

    def nodes(self, graph: CellGraph) -> list[Item]:
        items: list[Item] = []
        for state in [*range(graph.n_inputs + graph.n_nodes), None]:
            key = _OUTPUT if state is None else str(state)
            place = self.layout.nodes.get(key)
            if place is None:  # a node without edges
                continue
            x, y = self._at(place.along, place.across)
            outer = state is None or state < graph.n_inputs
            long = 46.0 if outer else 34.0
            width, height = (max(place.size_across, long), 26.0) if self.narrow else (long, place.size_across)
            fill = "input" if outer else "node"
            items.append(
                Box(
                    x=x - width / 2,
                    y=y - height / 2,
                    width=width,
                    height=height,
                    radius=6.0,
                    fill=fill,
                    stroke=fill + "-edge",
                    marks={"class": "node", "data-node": key},
                )
            )
            text, subscript = state_name(state, graph.n_inputs)
            items.append(Label(x=x, y=y, text=text, size=14.0, subscript=subscript))
        return items
