"""Look-up in tables of benchmarks: what every network of a space reached when it was trained, or what it costs.

A table is a CSV file that a person brings along: a column `arch`, one `index` if there are numbers, and at least one of
values. Those whose name ends in `_ms` or `_mj` are milliseconds and millijoules, `parameters` and `multiply_adds` are
counts, and less of them is better; -1 is what could not be measured. All others are accuracies in percent.

Cells of NAS-Bench-201 are written `|op~0|+|op~0|op~1|+|op~0|op~1|op~2|`: node by node, operation~source. Networks of
NAS-Bench-Macro are written as eight digits, one a layer: 0 for `identity`, 1 for `mb3_3x3`, 2 for `mb6_5x5`.

Source: Dong and Yang 2020 (NAS-Bench-201); Li et al. 2021 (its hardware table); Su et al. 2021 (NAS-Bench-Macro).
"""

from __future__ import annotations

import bisect
import csv
import io
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from archgrad.architecture import Architecture
from archgrad.cost_names import MEASURED
from archgrad.decision import cell_nodes, joined_nodes
from archgrad.errors import ArchitectureError, DataError
from archgrad.json_text import shown

__all__ = [
    "LAYERS",
    "MACRO",
    "OPERATIONS",
    "SPACE",
    "Lookup",
    "Score",
    "Table",
    "format_arch",
    "load_table",
    "parse_arch",
    "query",
    "unit_of",
]

SPACE = "nasbench201"
CELL = "cell"
OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
_LEFT_OUT = "none"
MACRO = "nasbench-macro"
LAYERS = ("identity", "mb3_3x3", "mb6_5x5")
_MACRO_LABELS = tuple(f"layer{place}" for place in range(8))
_DIGITS = re.compile("[0-2]{8}")
_COUNTS = ("parameters", "multiply_adds")
_NODES = (1, 2, 3)
_CELL = re.compile(
    r"\+".join(r"\|" + "".join(rf"([A-Za-z0-9_]+)~{source}\|" for source in range(node)) for node in _NODES)
)
_FORM = "|op~0|+|op~0|op~1|+|op~0|op~1|op~2|"
_MAX_BYTES = 64 * 1024 * 1024
_MOST = 1e15


@dataclass(frozen=True, kw_only=True)
class Table:
    """The values of many networks."""

    columns: tuple[str, ...]
    """Names of the columns of values."""
    rows: Mapping[str, tuple[int, tuple[float, ...]]]
    """Network as text -> (its index in the benchmark, one value a column)."""
    ascending: tuple[tuple[float, ...], ...]
    """For each column, all its values in ascending order."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """What one network has in one column."""

    column: str
    value: float
    """NaN where it could not be measured."""
    unit: str
    """"%" for an accuracy, "ms", "mJ", or "" for a count."""
    rank: int
    """1 + number of networks that are better; 0 where it could not be measured."""
    best: float
    """The best value of the column."""


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """A network's row of the table."""

    index: int
    """The network's number in the benchmark, or the place of its row."""
    arch: str
    """The network as text."""
    cells: int
    """Number of networks in the table."""
    scores: tuple[Score, ...]

    def to_text(self) -> str:
        """Return a small table for the terminal."""
        width = max(len(score.column) + len(score.unit) + 1 for score in self.scores)
        kind = "network" if _DIGITS.fullmatch(self.arch) else "cell"
        lines = [f"{kind} {self.index}  {self.arch}", f"{'':{width}}         value     rank of {self.cells:<8} best"]
        for s in self.scores:
            name, decimals = f"{s.column} {s.unit}".strip(), 0 if s.column in _COUNTS else 3
            value, rank = (f"{s.value:,.{decimals}f}", str(s.rank)) if s.rank else ("not measured", "")
            lines.append(f"{name:{width}}  {value:>12}  {rank:>8}  {s.best:14,.{decimals}f}")
        return "\n".join(lines) + "\n"


def unit_of(column: str) -> str:
    """Return the unit of a column of a table, by its name."""
    if column in _COUNTS:
        return ""
    return MEASURED.get(column[-3:], "%")


def parse_arch(text: str) -> Architecture:
    """Return the architecture that `|op~0|+|op~0|op~1|+|op~0|op~1|op~2|` or eight digits describe.

    Raises:
        ArchitectureError: The text has another form or an unknown operation.
    """
    if not isinstance(text, str):
        raise ArchitectureError(f"A cell of NAS-Bench-201 is read from a str, but got {type(text).__name__}.")
    if _DIGITS.fullmatch(text.strip()):
        layers = zip(_MACRO_LABELS, text.strip(), strict=True)
        return Architecture({label: LAYERS[int(digit)] for label, digit in layers}, space=MACRO)
    operations = _operations(text.strip())
    cell = {str(node): [[next(operations), source] for source in range(node)] for node in _NODES}
    return Architecture({CELL: cell}, space=SPACE)


def _operations(text: str) -> Iterator[str]:
    """Return the six operations of a cell, node by node and then by source."""
    match = _CELL.fullmatch(text)
    if match is None:
        raise ArchitectureError(f"A cell of NAS-Bench-201 is written {_FORM}, but got {shown(text)}.")
    for operation in match.groups():
        _check_operation(operation)
    return iter(match.groups())


def _check_operation(operation: str) -> None:
    if operation not in OPERATIONS:
        raise ArchitectureError(
            f"NAS-Bench-201 has the operations {', '.join(OPERATIONS)}, but the cell has {shown(operation)}."
        )


def format_arch(architecture: Architecture) -> str:
    """Return an architecture of the space "nasbench201" or "nasbench-macro" as text, the edges of a node by source.

    An edge that a selection has left out gives nothing, as `none` does, and is written so.

    Raises:
        ArchitectureError: The architecture belongs to another space.
    """
    taken = [architecture.choices.get(label) for label in _MACRO_LABELS]
    if architecture.space in (MACRO, None) and len(architecture.choices) == 8 and all(one in LAYERS for one in taken):
        return "".join(str(LAYERS.index(str(one))) for one in taken)
    decision = architecture.choices.get(CELL)
    if architecture.space not in (SPACE, None) or len(architecture.choices) != 1 or not isinstance(decision, Mapping):
        raise ArchitectureError(
            f"NAS-Bench-201 has the one cell {CELL!r}, and NAS-Bench-Macro layer0 to layer7, but this architecture of "
            f"space {shown(architecture.space)} decides {shown(', '.join(architecture.choices))}. Search the space "
            f"{SPACE!r} or {MACRO!r}."
        )
    parts = []
    nodes = {node: sorted(edges, key=lambda edge: edge.source) for node, edges in cell_nodes(decision).items()}
    for node in _NODES:
        edges = nodes.get(node, [])
        kept = {edge.source: edge.operation for edge in edges}
        if len(nodes) != len(_NODES) or len(kept) < len(edges) or not kept.keys() <= set(range(node)):
            raise ArchitectureError(
                f"A cell of NAS-Bench-201 has nodes 1, 2, 3 with one edge from each earlier state, but node {node} of "
                f"{', '.join(map(str, nodes))} has {shown([list(edge) for edge in edges])}. Search the space {SPACE!r}."
            )
        for operation in kept.values():
            _check_operation(operation)
        parts.append("|" + "".join(f"{kept.get(source, _LEFT_OUT)}~{source}|" for source in range(node)))
    if "concat" in decision and joined_nodes(decision) != _NODES[-1:]:
        raise ArchitectureError(
            f"A cell of NAS-Bench-201 gives out its last node, but this one joins {joined_nodes(decision)}. "
            f"Leave out 'concat'."
        )
    return "+".join(parts)


def load_table(path: str | os.PathLike[str]) -> Table:
    """Read a table of a benchmark.

    Args:
        path: CSV file with the column `arch` and at least one of values, and `index` if the networks have numbers.

    Raises:
        DataError: The file cannot be read, or a row breaks a rule.
    """
    where = shown(os.fspath(path))
    try:
        size = os.path.getsize(path)
        if size > _MAX_BYTES or not os.path.isfile(path):
            raise DataError(f"{where} must be a file of at most {_MAX_BYTES} bytes, but is not (size {size}).")
        with open(path, encoding="utf-8-sig", newline="") as file:
            text = file.read(_MAX_BYTES)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise DataError(f"The table {where} cannot be read: {reason}. Name the CSV file of a benchmark.") from None
    rows: dict[str, tuple[int, tuple[float, ...]]] = {}
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, [])
        columns = tuple(column for column in header if column not in ("index", "arch"))
        if "arch" not in header or not columns or len(set(header)) != len(header):
            raise DataError(f"it needs different columns, among them arch and values, but has {shown(header)}")
        for row in reader:
            arch, content = _row(header, row, place=len(rows))
            if arch in rows:
                raise DataError(f"a cell may occur once, but {arch} is repeated")
            rows[arch] = content
    except (DataError, ArchitectureError, csv.Error) as error:
        raise DataError(f"{where}, line {reader.line_num}: {error}. Take an intact copy of the table.") from None
    if not rows:
        raise DataError(f"The table {where} has no rows. Take an intact copy.")
    by_column = zip(*(values for _, values in rows.values()), strict=True)
    ascending = tuple(tuple(sorted(value for value in values if not math.isnan(value))) for values in by_column)
    return Table(columns=columns, rows=MappingProxyType(rows), ascending=ascending)


def _row(header: list[str], row: list[str], *, place: int) -> tuple[str, tuple[int, tuple[float, ...]]]:
    if len(row) != len(header):
        raise DataError(f"a row needs {len(header)} values, but has {len(row)}")
    cells = dict(zip(header, row, strict=True))
    index, arch = cells.pop("index", str(place)), cells.pop("arch")
    if not _DIGITS.fullmatch(arch):
        _operations(arch)
    if not re.fullmatch("[0-9]{1,9}", index):
        raise DataError(f"an index is a number from 0, but got {shown(index)}")
    return arch, (int(index), tuple(_value(column, value) for column, value in cells.items()))


def _value(column: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    most, rule = (100, "from 0 to 100") if unit_of(column) == "%" else (_MOST, "a number of at least 0, or -1")
    if value == -1 and unit_of(column) != "%":
        return math.nan
    if not 0 <= value <= most:
        raise DataError(f"{column} must be {rule}, but is {shown(text)}")
    return value


def query(table: Table, architecture: Architecture) -> Lookup:
    """Return what the table says of an architecture.

    Raises:
        ArchitectureError: The architecture belongs to another space, or the table does not have it.
    """
    arch = format_arch(architecture)
    if arch not in table.rows:
        raise ArchitectureError(f"The table has {len(table.rows)} cells, but not {arch}. Take the complete table.")
    index, values = table.rows[arch]
    scores = tuple(map(_score, table.columns, values, table.ascending))
    return Lookup(index=index, arch=arch, cells=len(table.rows), scores=scores)


def _score(column: str, value: float, ascending: Sequence[float]) -> Score:
    unit = unit_of(column)
    if math.isnan(value):
        return Score(column=column, value=value, unit=unit, rank=0, best=ascending[0] if ascending else math.nan)
    if unit == "%":
        better, best = len(ascending) - bisect.bisect_right(ascending, value), ascending[-1]
    else:
        better, best = bisect.bisect_left(ascending, value), ascending[0]
    return Score(column=column, value=value, unit=unit, rank=1 + better, best=best)
