"""Look-up in a table of NAS-Bench-201: what each of the 15,625 cells reached when it was trained.

The table is a CSV file that a person brings along: columns `index` and `arch`, and one column of accuracies (percent)
for each data set and budget. Cells are written `|op~0|+|op~0|op~1|+|op~0|op~1|op~2|`: node by node, operation~source.

Source: Dong and Yang 2020.
"""

from __future__ import annotations

import bisect
import csv
import io
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from archgrad.architecture import Architecture
from archgrad.decision import cell_nodes, joined_nodes
from archgrad.errors import ArchitectureError, DataError
from archgrad.json_text import shown

__all__ = ["OPERATIONS", "SPACE", "Lookup", "Score", "Table", "format_arch", "load_table", "parse_arch", "query"]

SPACE = "nasbench201"
CELL = "cell"
OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
_NODES = (1, 2, 3)
_CELL = re.compile(
    r"\+".join(r"\|" + "".join(rf"([A-Za-z0-9_]+)~{source}\|" for source in range(node)) for node in _NODES)
)
_FORM = "|op~0|+|op~0|op~1|+|op~0|op~1|op~2|"
_MAX_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Table:
    """The accuracies of many cells."""

    columns: tuple[str, ...]
    """Names of the accuracy columns."""
    rows: Mapping[str, tuple[int, tuple[float, ...]]]
    """Cell as text -> (its index in the benchmark, one accuracy a column, percent)."""
    ascending: tuple[tuple[float, ...], ...]
    """For each column, all its accuracies in ascending order."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """What one cell reached in one column."""

    column: str
    accuracy: float
    """Percent."""
    rank: int
    """1 + number of cells that reached more."""
    best: float
    """The highest accuracy of the column, percent."""


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """A cell's row of the table."""

    index: int
    """The cell's number in the benchmark."""
    arch: str
    """The cell as text."""
    cells: int
    """Number of cells in the table."""
    scores: tuple[Score, ...]

    def to_text(self) -> str:
        """Return a small table for the terminal."""
        width = max(len(score.column) for score in self.scores)
        lines = [f"cell {self.index}  {self.arch}", f"{'':{width}}  accuracy %     rank of {self.cells:<8} best %"]
        lines += [f"{s.column:{width}}  {s.accuracy:10.3f}  {s.rank:8d}  {s.best:16.3f}" for s in self.scores]
        return "\n".join(lines) + "\n"


def parse_arch(text: str) -> Architecture:
    """Return the cell that `|op~0|+|op~0|op~1|+|op~0|op~1|op~2|` describes.

    Raises:
        ArchitectureError: The text has another form or an unknown operation.
    """
    if not isinstance(text, str):
        raise ArchitectureError(f"A cell of NAS-Bench-201 is read from a str, but got {type(text).__name__}.")
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
    """Return an architecture of the space "nasbench201" as text, the edges of each node by source.

    Raises:
        ArchitectureError: The architecture belongs to another space.
    """
    decision = architecture.choices.get(CELL)
    if architecture.space not in (SPACE, None) or len(architecture.choices) != 1 or not isinstance(decision, Mapping):
        raise ArchitectureError(
            f"NAS-Bench-201 has the one cell {CELL!r}, but this architecture of space {shown(architecture.space)} "
            f"decides {shown(', '.join(architecture.choices))}. Search the space {SPACE!r}."
        )
    parts = []
    nodes = {node: sorted(edges, key=lambda edge: edge.source) for node, edges in cell_nodes(decision).items()}
    for node in _NODES:
        edges = nodes.get(node, [])
        if len(nodes) != len(_NODES) or [edge.source for edge in edges] != list(range(node)):
            raise ArchitectureError(
                f"A cell of NAS-Bench-201 has nodes 1, 2, 3 with one edge from each earlier state, but node {node} of "
                f"{', '.join(map(str, nodes))} has {shown([list(edge) for edge in edges])}. Search the space {SPACE!r}."
            )
        parts.append("|" + "".join(f"{operation}~{source}|" for operation, source in edges))
        for operation, _ in edges:
            _check_operation(operation)
    if "concat" in decision and joined_nodes(decision) != _NODES[-1:]:
        raise ArchitectureError(
            f"A cell of NAS-Bench-201 gives out its last node, but this one joins {joined_nodes(decision)}. "
            f"Leave out 'concat'."
        )
    return "+".join(parts)


def load_table(path: str | os.PathLike[str]) -> Table:
    """Read a table of accuracies.

    Args:
        path: CSV file with the columns `index`, `arch` and at least one of accuracies in percent.

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
        raise DataError(f"The table {where} cannot be read: {reason}. Name the CSV file of NAS-Bench-201.") from None
    rows: dict[str, tuple[int, tuple[float, ...]]] = {}
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, [])
        columns = tuple(column for column in header if column not in ("index", "arch"))
        if "index" not in header or "arch" not in header or not columns or len(set(header)) != len(header):
            raise DataError(
                f"it needs different columns, among them index, arch and accuracies, but has {shown(header)}"
            )
        for row in reader:
            arch, content = _row(header, row)
            if arch in rows:
                raise DataError(f"a cell may occur once, but {arch} is repeated")
            rows[arch] = content
    except (DataError, ArchitectureError, csv.Error) as error:
        raise DataError(f"{where}, line {reader.line_num}: {error}. Take an intact copy of the table.") from None
    if not rows:
        raise DataError(f"The table {where} has no rows. Take an intact copy.")
    ascending = tuple(tuple(sorted(values)) for values in zip(*(values for _, values in rows.values()), strict=True))
    return Table(columns=columns, rows=MappingProxyType(rows), ascending=ascending)


def _row(header: list[str], row: list[str]) -> tuple[str, tuple[int, tuple[float, ...]]]:
    if len(row) != len(header):
        raise DataError(f"a row needs {len(header)} values, but has {len(row)}")
    cells = dict(zip(header, row, strict=True))
    index, arch = cells.pop("index"), cells.pop("arch")
    _operations(arch)
    if not re.fullmatch("[0-9]{1,9}", index):
        raise DataError(f"an index is a number from 0, but got {shown(index)}")
    return arch, (int(index), tuple(_percent(column, value) for column, value in cells.items()))


def _percent(column: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 100:
        raise DataError(f"{column} must be from 0 to 100, but is {shown(text)}")
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
    scores = tuple(
        Score(
            column=column,
            accuracy=value,
            rank=1 + len(ascending) - bisect.bisect_right(ascending, value),
            best=ascending[-1],
        )
        for column, value, ascending in zip(table.columns, values, table.ascending, strict=True)
    )
    return Lookup(index=index, arch=arch, cells=len(table.rows), scores=scores)
