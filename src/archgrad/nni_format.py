"""The three JSON shapes in which versions of NNI exported the paper's CNN space, told apart by their content.

Keys are `normal_n2_p0` (edge from state 0 to node 2) and `normal_n2_switch` (the two edges that node 2 keeps):

| NNI  | edge                                 | switch                        |
|------|--------------------------------------|-------------------------------|
| 1    | operation name, `[]` when dropped    | edge keys, by source          |
| 2.3  | index among the operations           | sources, best first           |
| 2.4  | operation name                       | sources, best first           |
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from archgrad.decision import cell_nodes
from archgrad.errors import ArchitectureError
from archgrad.json_text import shown

__all__ = ["format_choices", "format_nni", "looks_like_export", "looks_like_nni", "parse_export", "parse_nni"]

OPERATIONS = {
    "maxpool": "max_pool_3x3",
    "avgpool": "avg_pool_3x3",
    "skipconnect": "skip_connect",
    "sepconv3x3": "sep_conv_3x3",
    "sepconv5x5": "sep_conv_5x5",
    "dilconv3x3": "dil_conv_3x3",
    "dilconv5x5": "dil_conv_5x5",
}
"""NNI's operations in the order of its indices (it does not count `none`) -> the paper's names."""
_NNI_NAMES = {paper: nni for nni, paper in OPERATIONS.items()}
_FILLER = "max_pool_3x3"
_CELLS = ("normal", "reduce")
_NODES = range(2, 6)
_KEPT = 2
_KEY = re.compile(r"(normal|reduce)_n[0-9]+_(p[0-9]+|switch)")


_CELL_KEY = re.compile(r"(.+)_n([0-9]{1,4})_(?:p([0-9]{1,4})|switch)", re.DOTALL)


def looks_like_nni(data: Mapping[str, Any]) -> bool:
    """Return whether some key of `data` has NNI's form, so that its errors are the ones to report."""
    return any(isinstance(key, str) and _KEY.fullmatch(key) for key in data)


def looks_like_export(data: Mapping[str, Any], *, of_numbers: bool = False) -> bool:
    """Return whether `data` may be an export of a person's own space: names, numbers and lists of indices by label.

    Args:
        data: Any mapping.
        of_numbers: Whether it may hold nothing but numbers, as much other data does.
    """
    if not of_numbers and all(map(_is_number, data.values())):
        return False
    return bool(data) and all(
        isinstance(key, str) and key and ((isinstance(value, str) and value) or _is_indices(value) or _is_number(value))
        for key, value in data.items()
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_indices(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple)) and bool(value) and all(type(index) is int and index >= 0 for index in value)
    )


def parse_export(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the choices that `format_nni` and the labels of layer and input choices were written of.

    Args:
        data: Label -> candidate or indices, best first; a cell as "LABEL_n2_p0" -> operation and "LABEL_n2_switch" ->
            sources, best first. A key of this form without its switch or edge is a label as any other.

    Returns:
        Label -> decision as an architecture has it; NNI's names of operations in cells become the paper's.
    """
    cells: dict[str, dict[str, list[list[Any]]]] = {}
    used: set[str] = set()
    for key, sources in data.items():
        match = _CELL_KEY.fullmatch(key)
        if match is None or match[3] is not None or not _is_indices(sources):
            continue
        label, node = match[1], match[2]
        edges = [f"{label}_n{node}_p{source}" for source in range(int(node))]
        if all(isinstance(data.get(edge), str) for edge in edges) and max(sources) < int(node):
            cells.setdefault(label, {})[node] = [[_paper_name(data[edges[source]]), source] for source in sources]
            used.update((key, *edges))
    others = {key: sorted(value) if _is_indices(value) else value for key, value in data.items() if key not in used}
    return {**others, **cells}


def _paper_name(operation: str) -> str:
    return OPERATIONS.get(operation, operation)


def format_nni(
    label: str, operations: Mapping[tuple[int, int], str], nodes: Mapping[str, Sequence[Sequence[Any]]]
) -> tuple[dict[str, str], dict[str, list[int]]]:
    """Return a cell in the shape of NNI 2.4, which tells the operation of the dropped edges too.

    Args:
        label: Of the cell.
        operations: (source, node) -> operation, for every edge. The paper's operations get NNI's names, others stay.
        nodes: Node -> kept [operation, source] pairs, strongest first.

    Returns:
        Key of an edge -> operation; and key of a node's switch -> sources, best first.
    """
    edges = {f"{label}_n{node}_p{source}": _NNI_NAMES.get(name, name) for (source, node), name in operations.items()}
    switches = {f"{label}_n{node}_switch": [source for _, source in kept] for node, kept in nodes.items()}
    return edges, switches


def format_choices(choices: Mapping[str, Any]) -> dict[str, Any]:
    """Return choices in the shape of NNI 2.4; edges that were dropped get its first operation, since it asks for one.

    Args:
        choices: Label -> decision, as an architecture has them.

    Raises:
        ArchitectureError: A cell does not join all its nodes, or keeps an edge twice, which this shape cannot say.
    """
    edges: dict[str, Any] = {}
    switches: dict[str, Any] = {}
    for label, decision in choices.items():
        if not isinstance(decision, Mapping):
            edges[label] = decision if isinstance(decision, str | int | float) else list(decision)
            continue
        nodes = {str(node): kept for node, kept in cell_nodes(decision).items()}
        twice = any(len({source for _, source in kept}) < len(kept) for kept in nodes.values())
        if twice or "concat" in decision:
            what = "keeps an edge of a node twice" if twice else f"joins {shown(list(decision['concat']))}"
            raise ArchitectureError(
                f"The shape of NNI 2.4 has cells that join all nodes and keep an edge once, but cell '{label}' {what}. "
                f"Write it as genotype text or as archgrad's JSON."
            )
        operations = {(source, int(node)): _FILLER for node in nodes for source in range(int(node))}
        operations |= {(source, int(node)): name for node, kept in nodes.items() for name, source in kept}
        of_cell, of_nodes = format_nni(label, operations, nodes)
        edges |= of_cell
        switches |= of_nodes
    return {**edges, **switches}


def parse_nni(data: Mapping[str, Any]) -> tuple[dict[str, dict[str, list[Any]]], str]:
    """Return what an export of NNI says of the paper's CNN space.

    Args:
        data: Key -> value, in any of the three shapes.

    Returns:
        The cells "normal" and "reduce", each node -> [[operation, source], ...] (strongest first in 2.3 and 2.4, by
        source in 1, which did not keep the order); and the version of NNI that writes this shape: "1", "2.3" or "2.4".

    Raises:
        ArchitectureError: The data has another shape.
    """
    if not isinstance(data, Mapping):
        raise ArchitectureError(f"NNI's export is a mapping, but got {type(data).__name__}.")
    _check_keys(data)
    switches = [f"{cell}_n{node}_switch" for cell in _CELLS for node in _NODES]
    edges = [f"{cell}_n{node}_p{source}" for cell in _CELLS for node in _NODES for source in range(node)]
    if all(isinstance(data[key], (list, tuple)) and all(isinstance(v, str) for v in data[key]) for key in switches):
        version = "1"
    else:
        version = "2.3" if any(type(data[key]) is int for key in edges) else "2.4"
    cells = {
        cell: {str(node): [_edge(data, key, version) for key in _kept(data, cell, node, version)] for node in _NODES}
        for cell in _CELLS
    }
    for key in edges:  # the dropped edges too: damage anywhere means that the file is not what it was
        if version != "1" or data[key] != []:
            _operation(key, data[key], version)
    return cells, version


def _check_keys(data: Mapping[str, Any]) -> None:
    expected = [
        f"{cell}_n{node}_{suffix}"
        for cell in _CELLS
        for node in _NODES
        for suffix in [*(f"p{source}" for source in range(node)), "switch"]
    ]
    known = set(expected)
    unknown = [key for key in data if key not in known]
    if unknown:
        raise ArchitectureError(
            f"NNI's export of the paper's CNN space has keys such as {expected[0]!r}, but this one has "
            f"{shown(unknown[0])}. Exports of other spaces are not read; write their choices as archgrad's JSON."
        )
    missing = [key for key in expected if key not in data]
    if missing:
        raise ArchitectureError(
            f"NNI's export of the paper's CNN space has {len(expected)} keys, but {len(missing)} are missing, "
            f"the first being {missing[0]!r}. Export it again."
        )


def _kept(data: Mapping[str, Any], cell: str, node: int, version: str) -> list[str]:
    key = f"{cell}_n{node}_switch"
    switch = data[key]
    edges = [f"{cell}_n{node}_p{source}" for source in range(node)]
    kept: list[str] = []
    if isinstance(switch, (list, tuple)):
        if version == "1":
            kept = [edge for edge in switch if edge in edges]
        else:
            kept = [edges[source] for source in switch if type(source) is int and 0 <= source < node]
    if len(kept) != _KEPT or len(switch) != _KEPT or kept[0] == kept[1]:
        what = f"keys among {edges}" if version == "1" else f"indices from 0 to {node - 1}"
        raise ArchitectureError(
            f"{key!r} must list {_KEPT} different {what} (NNI {version}), but is {shown(switch)}. Export it again."
        )
    return kept


def _edge(data: Mapping[str, Any], key: str, version: str) -> list[Any]:
    return [_operation(key, data[key], version), int(key.rpartition("_p")[2])]


def _operation(key: str, value: Any, version: str) -> str:
    names = list(OPERATIONS)
    if version == "2.3":
        if type(value) is int and 0 <= value < len(names):
            return OPERATIONS[names[value]]
        rule = f"an index from 0 to {len(names) - 1}"
    else:
        if isinstance(value, str) and value in OPERATIONS:
            return OPERATIONS[value]
        rule = f"one of {', '.join(names)}"
    raise ArchitectureError(f"{key!r} must be {rule} (NNI {version}), but is {shown(value)}. Export it again.")
