"""The text form of a cell pair, `Genotype(normal=[...], normal_concat=..., ...)`: parsed, never evaluated.

The authors write two pairs a node in one list; forks also nest them by node, name the node in each, or add a score. A
recurrent cell is `Genotype(recurrent=[...], concat=...)`, with one pair a node.

The text looks like Python, but Python's parser is not for foreign text: deep nesting overflows its stack and ends the
process (on 3.10 and 3.13 at least). This form has a fixed depth, so a reader of its own is short, and cannot do more.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from archgrad.errors import ArchitectureError
from archgrad.json_text import shown

__all__ = ["format_genotype", "parse_genotype"]

T = TypeVar("T")


class _Shape(NamedTuple):
    """What the authors' code takes for granted of a cell."""

    concat: str
    """Name of the field that has the joined nodes."""
    n_inputs: int = 2
    edges_per_node: int = 2


_FORMS: tuple[dict[str, _Shape], ...] = (
    {"normal": _Shape("normal_concat"), "reduce": _Shape("reduce_concat")},
    {"recurrent": _Shape("concat", n_inputs=1, edges_per_node=1)},
)
"""The cells of a genotype, convolutional and recurrent."""
_MAX_CHARACTERS = 64 * 1024
_MAX_STATE = 999
_MAX_SCORE_CHARACTERS = 40
_OPERATION = re.compile(r"[A-Za-z0-9_]+")
_COMMENT = re.compile(r"#[^\n]*")
_TOKEN = re.compile(
    r"""(?: (?P<name>[A-Za-z_][A-Za-z0-9_]*) | (?P<score>[-+]?[0-9]*\.[0-9]+(?:[eE][-+]?[0-9]{1,3})?)
    | (?P<number>[0-9]+) | (?P<mark>[()\[\],=])
    | '(?P<single>[A-Za-z0-9_]+)' | "(?P<double>[A-Za-z0-9_]+)" )\s*""",
    re.VERBOSE,
)
_FORM = (
    "Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=range(2, 6), reduce=[...], reduce_concat=[2, 3, 4, 5]) "
    "or Genotype(recurrent=[('tanh', 0), ...], concat=range(1, 9))"
)


def parse_genotype(text: str) -> dict[str, dict[str, list[Any]]]:
    """Return the cells that a genotype text describes.

    Args:
        text: `Genotype(normal=[(operation, source), ...], normal_concat=..., reduce=[...], reduce_concat=...)` with two
            pairs a node, nodes counted from 2, and the joined nodes as a list or `range(first, end)`. Instead there may
            be a list of pairs for each node, triples (operation, source, node), or pairs with a score (operation,
            source, 0.25), which is left out. Of a recurrent cell `Genotype(recurrent=[...], concat=...)`, with one pair
            a node, counted from 1. `NAME = ` may stand before it, and comments anywhere.

    Returns:
        "normal" and "reduce", or "recurrent" -> {node: [[operation, source], ...], "concat": joined nodes}. Whether
        sources and joined nodes exist is not checked here.

    Raises:
        ArchitectureError: The text holds anything else.

    Source: Liu et al. 2019, the form in which the released code prints a search's result.
    """
    if not isinstance(text, str):
        raise ArchitectureError(f"A genotype is read from a str, but got {type(text).__name__}.")
    if len(text) > _MAX_CHARACTERS:
        raise _refusal(f"has at most {_MAX_CHARACTERS} characters, but this text has {len(text)}")
    reader = _Reader(_tokens(_COMMENT.sub("", text).strip()))
    if reader.coming.kind == "name" and reader.coming.text != "Genotype":
        reader.take("name")
        reader.take("=")
    reader.take("name", "Genotype")
    fields: dict[str, list[Any]] = {}
    for name, value in reader.items("(", lambda: _field(reader)):
        if name in fields:
            raise _refusal(f"has each field once, but {name!r} is repeated")
        fields[name] = value
    reader.take("end")
    form = max(_FORMS, key=lambda form: sum(name in fields for name in _fields(form)))
    if missing := [name for name in _fields(form) if name not in fields]:
        raise _refusal(f"has the fields {', '.join(_fields(form))}, but {', '.join(missing)} is missing")
    if others := [name for name in fields if name not in _fields(form)]:
        raise _refusal(f"has the fields {', '.join(_fields(form))}, but this one has {others[0]!r}, too")
    return {cell: {**_nodes(cell, fields[cell], shape), "concat": fields[shape.concat]} for cell, shape in form.items()}


def _fields(form: Mapping[str, _Shape]) -> list[str]:
    return [name for cell, shape in form.items() for name in (cell, shape.concat)]


class _Token(NamedTuple):
    kind: str  # "name", "number", "string", "end", or the mark itself
    text: str
    line: int

    def __str__(self) -> str:
        return "the end of the text" if self.kind == "end" else f"{shown(self.text)} in line {self.line}"


def _tokens(text: str) -> list[_Token]:
    tokens = []
    line, place = 1, 0
    for match in _TOKEN.finditer(text):
        if match.start() != place:
            break
        kind = str(match.lastgroup)
        part = match[kind]
        tokens.append(_Token({"mark": part, "single": "string", "double": "string"}.get(kind, kind), part, line))
        line += text.count("\n", place, match.end())
        place = match.end()
    if place != len(text):
        raise _refusal(f"holds names, numbers, lists and range only, but line {line} has {shown(text[place:][:20])}")
    return [*tokens, _Token("end", "", line)]


_KINDS = {"name": "a name", "number": "a state's number", "string": "an operation in quotes", "end": "nothing more"}


class _Reader:
    """Takes tokens one by one, and says what was expected where another comes."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._place = 0

    @property
    def coming(self) -> _Token:
        return self._tokens[self._place]

    def take(self, kind: str, text: str | None = None) -> str:
        token = self.coming
        if token.kind != kind or (text is not None and token.text != text):
            wanted = text or _KINDS.get(kind, f"'{kind}'")
            raise _refusal(f"needs {wanted} here, but has {token}")
        self._place = min(self._place + 1, len(self._tokens) - 1)
        return token.text

    def items(self, opening: str, item: Callable[[], T]) -> list[T]:
        """Take items between brackets, parted by commas; one more comma may follow the last."""
        closing = {"(": ")", "[": "]"}[opening]
        self.take(opening)
        found = []
        while self.coming.kind != closing:
            found.append(item())
            if self.coming.kind != closing:
                self.take(",")
        self.take(closing)
        return found

    def sequence(self, item: Callable[[], T]) -> list[T]:
        """Take the items of a list or tuple."""
        if self.coming.kind not in ("(", "["):
            raise _refusal(f"needs a list here, but has {self.coming}")
        return self.items("(" if self.coming.kind == "(" else "[", item)

    def state(self) -> int:
        token = self.coming
        digits = self.take("number")
        if len(digits) > len(str(_MAX_STATE)):
            raise _refusal(f"counts states from 0 to {_MAX_STATE}, but has {token}")
        return int(digits)


def _field(reader: _Reader) -> tuple[str, list[Any]]:
    token = reader.coming
    name = reader.take("name")
    known = [_fields(form) for form in _FORMS]
    if not any(name in names for names in known):
        raise _refusal(f"has the fields {' or '.join(', '.join(names) for names in known)}, but this one has {token}")
    reader.take("=")
    return name, _joined(reader) if name.endswith("concat") else reader.sequence(lambda: _edge_or_node(reader))


def _joined(reader: _Reader) -> list[int]:
    if reader.coming.kind != "name":
        return reader.sequence(reader.state)
    token = reader.coming
    reader.take("name", "range")
    bounds = reader.items("(", reader.state)
    if len(bounds) != 2:
        raise _refusal(f"joins nodes by range(first, end), but {token} has {len(bounds)} numbers")
    return list(range(*bounds))


def _edge_or_node(reader: _Reader) -> Any:
    """Return an edge as (operation, source, its node if it is told), or the edges of a node as a list."""
    if reader.coming.kind not in ("(", "["):
        raise _refusal(f"needs ('operation', source) here, but has {reader.coming}")
    closing = {"(": ")", "[": "]"}[reader.take(reader.coming.kind)]
    if reader.coming.kind in ("(", "[", closing):
        edges = []
        while reader.coming.kind != closing:
            edges.append(_edge(reader))
            if reader.coming.kind != closing:
                reader.take(",")
        reader.take(closing)
        return edges
    return _rest_of_edge(reader, closing)


def _edge(reader: _Reader) -> tuple[str, int, int | None]:
    if reader.coming.kind not in ("(", "["):
        raise _refusal(f"needs ('operation', source) here, but has {reader.coming}")
    return _rest_of_edge(reader, {"(": ")", "[": "]"}[reader.take(reader.coming.kind)])


def _rest_of_edge(reader: _Reader, closing: str) -> tuple[str, int, int | None]:
    operation = reader.take("string")
    reader.take(",")
    source, node = reader.state(), None
    if reader.coming.kind == ",":
        reader.take(",")
        if reader.coming.kind == "number":
            node = reader.state()
        elif len(reader.coming.text) <= _MAX_SCORE_CHARACTERS:
            reader.take("score")
    reader.take(closing)
    return operation, source, node


def _nodes(cell: str, given: list[Any], shape: _Shape) -> dict[str, list[Any]]:
    """Return node -> its edges, in whichever way these were told apart."""
    first, per_node = shape.n_inputs, shape.edges_per_node
    if given and all(isinstance(edges, list) for edges in given):
        grouped = {str(first + place): edges for place, edges in enumerate(given)}
    elif any(isinstance(edge, list) for edge in given):
        raise _refusal(f"has either pairs or lists of pairs, but '{cell}' has both")
    elif given and all(node is not None for _, _, node in given):
        numbers = sorted({node for _, _, node in given})
        if numbers != list(range(first, first + len(numbers))):
            raise _refusal(f"counts nodes from {first} without a gap, but '{cell}' has {shown(numbers)}")
        grouped = {str(number): [edge for edge in given if edge[2] == number] for number in numbers}
    elif not given or len(given) % per_node:
        raise _refusal(f"has {per_node} pairs for each node of '{cell}', but this one has {len(given)} in all")
    else:
        grouped = {
            str(first + place // per_node): given[place : place + per_node] for place in range(0, len(given), per_node)
        }
    for key, edges in grouped.items():
        for operation, source, node in edges:
            if node not in (None, int(key)):
                raise _refusal(
                    f"names the node in all edges of a cell or in none, but '{cell}' has node {node} and "
                    f"{shown((operation, source))} for node {key}"
                )
    return {key: [[operation, source] for operation, source, _ in edges] for key, edges in grouped.items()}


def _refusal(rule: str) -> ArchitectureError:
    return ArchitectureError(f"A genotype {rule}. Its form is {_FORM}.")


def format_genotype(choices: Mapping[str, Any], *, nested: bool = False) -> str:
    """Return the text of a pair of cells.

    Args:
        choices: As `parse_genotype` returns it; without "concat" all nodes are joined.
        nested: Write a list of pairs for each node, with any number of edges, as pt.darts does; not the authors' one
            list with two pairs a node, or one of a recurrent cell.

    Raises:
        ArchitectureError: The choices are neither a normal and a reduction cell nor a recurrent one, or a node has
            another number of edges.
    """
    form = next((form for form in _FORMS if set(form) == set(choices)), None)
    if form is None or not all(isinstance(decision, Mapping) for decision in choices.values()):
        raise ArchitectureError(
            f"A genotype holds the cells {' or '.join(' and '.join(form) for form in _FORMS)} and nothing else, but "
            f"this architecture has {shown(', '.join(choices))}. Save it as JSON."
        )
    parts = []
    for cell, shape in form.items():
        nodes = {key: edges for key, edges in choices[cell].items() if key != "concat"}
        if list(nodes) != [str(node) for node in range(shape.n_inputs, shape.n_inputs + len(nodes))]:
            raise ArchitectureError(
                f"A genotype counts nodes from {shape.n_inputs}, but cell '{cell}' has nodes {', '.join(nodes)}. "
                f"Save it as JSON."
            )
        written = []
        for node, edges in nodes.items():
            fits = nested or len(edges) == shape.edges_per_node
            if not fits or not all(_OPERATION.fullmatch(operation) for operation, _ in edges):
                raise ArchitectureError(
                    f"A genotype has {shape.edges_per_node} edges a node and operations named by letters, digits and "
                    f"'_', but node {node} of '{cell}' has {shown([list(edge) for edge in edges])}. Save it as JSON."
                )
            pairs = ", ".join(f"('{operation}', {source})" for operation, source in edges)
            written.append(f"[{pairs}]" if nested else pairs)
        concat = choices[cell].get("concat", [int(node) for node in nodes])
        parts.append(f"{cell}=[{', '.join(written)}], {shape.concat}=[{', '.join(str(node) for node in concat)}]")
    return f"Genotype({', '.join(parts)})"
