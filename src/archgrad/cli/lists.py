"""`archgrad spaces | steps | relaxations`: what there is, told by its own documentation.

The sources are read, not imported, so that a list does not wait for torch.
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from archgrad.cli.commands import COMMANDS
from archgrad.cli.names import UNROLLED, name_of
from archgrad.cli.parser import Parser
from archgrad.terminal import say

__all__ = ["Entry", "entries", "run_list"]

_PACKAGES = {
    "spaces": ("spaces", None),
    "steps": ("bilevel", "BilevelStep"),
    "relaxations": ("relaxation", "Relaxation"),
}
"""List -> the package that holds its members, and the class that they extend; None lists those of its `NAMED`."""

_HOW = {"finite-difference": "finite differences, as the authors do", "exact": "differentiating twice"}


@dataclass(frozen=True)
class Entry:
    """One line of a list."""

    name: str
    """As it is typed."""
    description: str
    """The first sentence of its documentation."""


def run_list(name: str, arguments: Sequence[str]) -> int:
    """Print a list."""
    Parser(name, COMMANDS[name]).parse_args(list(arguments))
    found = entries(name)
    width = max(len(entry.name) for entry in found) + 2
    for entry in found:
        say(
            textwrap.fill(entry.description, 110, initial_indent=f"{entry.name:{width}}", subsequent_indent=" " * width)
        )
    return 0


def entries(name: str) -> list[Entry]:
    """Return the members of a list.

    Args:
        name: "spaces", "steps" or "relaxations".
    """
    package, base = _PACKAGES[name]
    folder = Path(__file__).parents[1] / package
    public = _names_in(folder / "__init__.py", "NAMED" if base is None else "__all__")
    written = [
        node
        for source in sorted(folder.glob("*.py"))
        for node in ast.parse(source.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    ]
    bases = {node.name: set(map(ast.unparse, node.bases)) for node in written if isinstance(node, ast.ClassDef)}
    found: list[Entry] = []
    for node in written:
        wanted = isinstance(node, ast.FunctionDef) if base is None else _extends(node.name, base, bases)
        if wanted and node.name in public:
            found += _entries_of(node)
    return found


def _extends(name: str, base: str, bases: Mapping[str, set[str]]) -> bool:
    """Return whether a class extends another, directly or by way of classes of the same package."""
    own = bases.get(name, set())
    return base in own or any(_extends(each, base, bases) for each in own)


def _names_in(init: Path, table: str) -> list[str]:
    """Return the names in a table of a package, such as __all__."""
    for node in ast.parse(init.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == table:
            return list(ast.literal_eval(node.value))
    return []


def _entries_of(node: ast.ClassDef | ast.FunctionDef) -> list[Entry]:
    first_line = (ast.get_docstring(node) or "").partition("\n\n")[0].replace("\n", " ")
    if node.name == "Unrolled":
        return [Entry(name, f"{first_line} Its second part by {_HOW[hvp]}.") for name, hvp in UNROLLED.items()]
    return [Entry(name_of(node.name), first_line)]
