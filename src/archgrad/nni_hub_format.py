"""The JSON shape in which NNI 2.8 to 3.0 exported cells, those of its DARTS space and of a person's own space.

A cell called `normal` has the keys `normal/op_2_0` (the operation of the first edge into node 2) and
`normal/input_2_0` (the state that this edge leaves): an index in NNI 2, a list of one index in NNI 3.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from archgrad.decision import cell_nodes
from archgrad.errors import ArchitectureError
from archgrad.json_text import shown

__all__ = ["format_hub", "looks_like_hub", "parse_hub", "split_hub"]

_KEY = re.compile(r"(.+)/(op|input)_([0-9]{1,4})_([0-9]{1,4})", re.DOTALL)
_PAPER_CELLS = ("normal", "reduce")
_SIZES = ("width", "depth")
"""What the hub's spaces decide beside their cells; not part of an architecture, which fits any size."""


def looks_like_hub(data: Mapping[str, Any]) -> bool:
    """Return whether some key has this form, so that its errors are the ones to report."""
    return any(isinstance(key, str) and _KEY.fullmatch(key) for key in data)


def parse_hub(data: Mapping[str, Any]) -> dict[str, dict[str, list[list[Any]]]]:
    """Return the cells of an export.

    Args:
        data: Key -> operation or index; keys of another form are left alone.

    Returns:
        Cell -> node -> [[operation, source], ...] in the order of the edges.

    Raises:
        ArchitectureError: An edge lacks its operation or its input, or has another kind of value.
    """
    found: dict[str, dict[int, dict[int, dict[str, Any]]]] = {}
    for key, value in data.items():
        match = _KEY.fullmatch(key) if isinstance(key, str) else None
        if match is not None:
            cell, part, node, edge = match[1], match[2], int(match[3]), int(match[4])
            found.setdefault(cell, {}).setdefault(node, {}).setdefault(edge, {})[part] = value
    return {
        cell: {
            str(node): [_edge(f"{cell}/{{}}_{node}_{edge}", parts) for edge, parts in sorted(edges.items())]
            for node, edges in sorted(nodes.items())
        }
        for cell, nodes in found.items()
    }


def _edge(key: str, parts: Mapping[str, Any]) -> list[Any]:
    for part in ("op", "input"):
        if part not in parts:
            raise ArchitectureError(
                f"An export of NNI has an operation and an input for each edge of a cell, but {key.format(part)!r} is "
                f"missing. Export it again."
            )
    operation, source = parts["op"], parts["input"]
    if isinstance(source, list | tuple) and len(source) == 1:
        source = source[0]
    if not isinstance(operation, str) or not operation:
        raise ArchitectureError(
            f"{key.format('op')!r} must be the name of an operation, but is {shown(operation)}. Export it again."
        )
    if type(source) is not int or source < 0:
        raise ArchitectureError(
            f"{key.format('input')!r} must be the index of a state, alone or in a list, but is "
            f"{shown(parts['input'])}. Export it again."
        )
    return [operation, source]


def split_hub(data: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], bool]:
    """Return (choices, sizes, whether they are the paper's cells) of a whole export.

    Raises:
        ArchitectureError: A key that belongs to no cell has a value of another kind than choices have.
    """
    cells = parse_hub(data)
    others = {key: value for key, value in data.items() if not (isinstance(key, str) and _KEY.fullmatch(key))}
    paper = set(cells) <= set(_PAPER_CELLS) and set(others) <= set(_SIZES)
    sizes = {key: others.pop(key) for key in _SIZES if paper and type(others.get(key)) is int}
    choices: dict[str, Any] = dict(cells)
    for key, value in others.items():
        if key in cells:
            raise ArchitectureError(f"{shown(key)} is both a cell and another choice. Export it again.")
        if isinstance(value, int | float) and not isinstance(value, bool):
            choices[key] = value  # an open number, or the index of an input alone
        elif isinstance(value, list | tuple) and value and all(type(index) is int for index in value):
            choices[key] = sorted(value)
        elif isinstance(value, str) and value:
            choices[key] = value
        else:
            raise ArchitectureError(
                f"{shown(key)} must be a candidate's name, a number or the indices of inputs, but is {shown(value)}. "
                f"Export it again."
            )
    return choices, sizes, paper


def format_hub(choices: Mapping[str, Any], *, lists: bool = False) -> dict[str, Any]:
    """Return choices in this shape.

    Args:
        choices: Label -> decision, as an architecture has them.
        lists: Write an index as a list of one, as NNI 3 does.

    Raises:
        ArchitectureError: A cell does not join all its nodes, which this shape cannot say.
    """
    return dict(_entries(choices, lists))


def _entries(choices: Mapping[str, Any], lists: bool) -> Iterator[tuple[str, Any]]:
    for label, decision in choices.items():
        if isinstance(decision, str | int | float):
            yield label, decision
        elif not isinstance(decision, Mapping):
            alone = len(decision) == 1 and not lists
            yield label, decision[0] if alone else list(decision)
        elif "concat" in decision:
            raise ArchitectureError(
                f"NNI's shape joins all nodes of a cell, but cell '{label}' joins {shown(list(decision['concat']))}. "
                f"Save it as archgrad's JSON."
            )
        else:
            for node, edges in cell_nodes(decision).items():
                for place, (operation, source) in enumerate(edges):
                    yield f"{label}/op_{node}_{place}", operation
                    yield f"{label}/input_{node}_{place}", [source] if lists else source
