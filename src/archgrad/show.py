"""Architectures of any space as text for the terminal and as Graphviz DOT: cells as graphs, other choices as a tree.

Labels with slashes are paths: `block/0/conv` is drawn below `block/0`. Names may come from anyone's file, so that
control characters are shown as escapes and never reach the terminal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from archgrad.architecture import Architecture
from archgrad.decision import Edge, candidate_name, cell_nodes, edge_row, joined_nodes
from archgrad.terminal import printable

__all__ = ["connection_notes", "to_dot", "to_text"]

_MAX_PARTS = 20


@dataclass
class _Branch:
    """A part of a label's path, with what is decided there and below."""

    name: str
    label: str | None = None
    below: dict[str, _Branch] = field(default_factory=dict)


def to_text(architecture: Architecture, *, width: int = 100) -> str:
    """Return the architecture as lines for a terminal.

    A node of a cell shows its edges, strongest first, with the probability of each where the provenance has it. Below
    stands where the likeliest decision was left out, since it would have connected no input with the output.

    Args:
        architecture: Of any space.
        width: Characters in a line that the edges of a node may fill before they go on in the next, at least 20.
    """
    lines = [printable(architecture.space or "architecture")]
    if not architecture.choices:
        lines.append("└─ no choices")
    lines += _tree(_branches(architecture), "", architecture, width)
    lines += connection_notes(architecture)
    return "\n".join(lines) + "\n"


def connection_notes(architecture: Architecture) -> list[str]:
    """Return a sentence for each cell that took the likeliest connected decision in the place of the likeliest one."""
    plain: Any = architecture.provenance.get("plain_decisions")
    notes = []
    for label, decision in plain.items() if isinstance(plain, Mapping) else ():
        taken = architecture.choices.get(label)
        if isinstance(taken, Mapping) and isinstance(decision, Mapping):
            changes = ", ".join(_changes(label, decision, taken, architecture)) or "other edges"
            notes.append(
                f"Cell {printable(label)}: the likeliest candidates leave no path from an input to the output, so "
                f"the likeliest decision with one was taken. It has {changes}."
            )
    return notes


def _changes(
    label: str, plain: Mapping[str, Any], taken: Mapping[str, Any], architecture: Architecture
) -> Iterator[str]:
    nodes = cell_nodes(taken)
    for node, edges in nodes.items():
        row = plain.get(str(node))
        pairs = [pair for pair in row if len(pair) == 2] if isinstance(row, (list, tuple)) else []
        before = {pair[1]: Edge(str(pair[0]), pair[1]) for pair in pairs if isinstance(pair[1], int)}
        for edge in edges:
            other = before.get(edge.source)
            if other != edge:
                strength = _strength(label, node, edge, architecture)
                instead = (
                    ""
                    if other is None
                    else (f" instead of {printable(other.operation)}{_strength(label, node, other, architecture)}")
                )
                source = _state(edge.source, min(nodes))
                yield f"{printable(edge.operation)}{strength} from {source} to node {node}{instead}"


def _branches(architecture: Architecture) -> list[_Branch]:
    root = _Branch("")
    for label in architecture.choices:
        parts = label.split("/", _MAX_PARTS)
        branch = root
        for part in parts if all(parts) else [label]:
            branch = branch.below.setdefault(part, _Branch(part))
        branch.label = label
    return [_joined(branch) for branch in root.below.values()]


def _joined(branch: _Branch) -> _Branch:
    """Return the branch with paths that neither fork nor decide drawn together."""
    below = [_joined(child) for child in branch.below.values()]
    if branch.label is None and len(below) == 1:
        return _Branch(f"{branch.name}/{below[0].name}", below[0].label, below[0].below)
    return _Branch(branch.name, branch.label, {child.name: child for child in below})


def _tree(branches: list[_Branch], gutter: str, architecture: Architecture, width: int) -> Iterator[str]:
    for place, branch in enumerate(branches, start=1):
        head, tail = ("└─ ", "   ") if place == len(branches) else ("├─ ", "│  ")
        decision = None if branch.label is None else architecture.choices[branch.label]
        yield f"{gutter}{head}{printable(branch.name)}{_summary(decision)}"
        below = list(branch.below.values())
        if isinstance(decision, Mapping):
            rows = _cell_rows(str(branch.label), decision, architecture, width - len(gutter) - 16)
            for row, (name, chunks) in enumerate(rows, start=1):
                last = row == len(rows) and not below
                for i, chunk in enumerate(chunks):
                    stroke = ("│  " if i else "├─ ") if not last else ("   " if i else "└─ ")
                    yield f"{gutter}{tail}{stroke}{'' if i else name:8}  {chunk}".rstrip()
        yield from _tree(below, gutter + tail, architecture, width)


def _summary(decision: Any) -> str:
    if decision is None:
        return ""
    if (name := candidate_name(decision)) is not None:
        return f" = {printable(name)}"
    if isinstance(decision, Mapping):
        nodes = cell_nodes(decision)
        return f": cell of {_count(len(nodes), 'node')} on {_count(min(nodes), 'input')}"
    return f" = input{'s' if len(decision) > 1 else ''} {', '.join(map(str, decision))}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _cell_rows(
    label: str, decision: Mapping[str, Any], architecture: Architecture, width: int
) -> list[tuple[str, list[str]]]:
    """Return (what, its edges broken into lines) of each node and of the output."""
    nodes = cell_nodes(decision)

    def text(node: int, edge: Edge) -> str:
        source = _state(edge.source, min(nodes))
        return f"{printable(edge.operation)} ← {source}{_strength(label, node, edge, architecture)}"

    texts = {node: [text(node, edge) for edge in edges] for node, edges in nodes.items()}
    column = max(len(entry) for row in texts.values() for entry in row) + 3
    fit = max(1, width // column)
    rows = []
    for node, row in texts.items():
        padded = [f"{entry:{column}}" for entry in row or ["no edges"]]
        rows.append((f"node {node}", ["".join(padded[i : i + fit]) for i in range(0, len(padded), fit)]))
    output = joined_nodes(decision)
    return [*rows, ("output", [f"node{'s' if len(output) > 1 else ''} {', '.join(map(str, output))}"])]


def _state(state: int, n_inputs: int) -> str:
    return f"input {state}" if state < n_inputs else f"node {state}"


def _strength(label: str, node: int, edge: Edge, architecture: Architecture) -> str:
    """Return the edge's probability as text; nothing where the provenance, which may be any JSON, has none."""
    row: Any = architecture.provenance.get("probabilities")
    for key in (edge_row(label, edge.source, node), edge.operation):
        row = row.get(key) if isinstance(row, Mapping) else None
    return f" ({row:.2f})" if isinstance(row, float) else ""


def to_dot(architecture: Architecture) -> str:
    """Return the architecture as a Graphviz graph, from left to right.

    A cell is a cluster with its operations on the edges; other choices hang below the parts of their labels.
    """
    name = _quoted(architecture.space or "architecture")
    lines = [f"digraph {name} {{", '  graph [rankdir="LR", fontname="Helvetica"];']
    lines += ['  node [shape="box", style="rounded", fontname="Helvetica"];', '  edge [fontname="Helvetica"];']
    if not all(isinstance(decision, Mapping) for decision in architecture.choices.values()):
        lines.append(f'  t0 [label={name}, shape="plaintext"];')
        lines += _dot_tree(_branches(architecture), "t0", architecture)
    for number, (label, decision) in enumerate(architecture.choices.items()):
        if isinstance(decision, Mapping):
            lines += _dot_cell(f"c{number}", label, decision)
    return "\n".join([*lines, "}"]) + "\n"


def _dot_tree(branches: list[_Branch], parent: str, architecture: Architecture) -> Iterator[str]:
    for place, branch in enumerate(branches):
        decision = None if branch.label is None else architecture.choices[branch.label]
        name = f"{parent}_{place}"
        yield f'  {name} [label={_quoted(branch.name)}, shape="plaintext"];'
        yield f'  {parent} -> {name} [arrowhead="none"];'
        if decision is not None:
            what = f"cell {branch.label}" if isinstance(decision, Mapping) else _summary(decision).removeprefix(" = ")
            yield f"  {name}_decision [label={_quoted(what)}];"
            yield f"  {name} -> {name}_decision;"
        yield from _dot_tree(list(branch.below.values()), name, architecture)


def _dot_cell(name: str, label: str, decision: Mapping[str, Any]) -> Iterator[str]:
    nodes = cell_nodes(decision)
    n_inputs = min(nodes)
    yield f"  subgraph cluster_{name} {{"
    yield f"    label={_quoted(label)};"
    for state in [*range(n_inputs), *nodes]:
        shape = 'shape="ellipse", style="solid"' if state < n_inputs else 'shape="box"'
        yield f"    {name}_{state} [label={_quoted(_state(state, n_inputs))}, {shape}];"
    yield f'    {name}_output [label="output", shape="ellipse", style="solid"];'
    for node, edges in nodes.items():
        for edge in edges:
            yield f"    {name}_{edge.source} -> {name}_{node} [label={_quoted(edge.operation)}];"
    for node in joined_nodes(decision):
        yield f'    {name}_{node} -> {name}_output [style="dashed"];'
    yield "  }"


def _quoted(text: str) -> str:
    """Return a DOT string that shows `text` as it is: no escapes, no entities, nothing that ends the string."""
    return '"' + printable(text).replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"') + '"'
