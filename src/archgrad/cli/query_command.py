"""`archgrad query`: what a tabular benchmark knows of an architecture."""

from __future__ import annotations

from collections.abc import Sequence

from archgrad.cli.commands import COMMANDS
from archgrad.cli.named_architectures import FORMS, open_architecture
from archgrad.cli.parser import Parser
from archgrad.nasbench import load_table, query
from archgrad.terminal import say

__all__ = ["make_parser", "run"]


def make_parser() -> Parser:
    """Return the parser."""
    parser = Parser("query", COMMANDS["query"], positional="ARCH --table CSV ")
    parser.add_argument(
        "arch",
        metavar="ARCH",
        help=f"What to look up: a cell of NAS-Bench-201 (|op~0|+|op~0|op~1|+|op~0|op~1|op~2|), a network of "
        f"NAS-Bench-Macro (eight digits from 0 to 2), or {FORMS}.",
    )
    parser.add_argument(
        "--table",
        type=str,
        required=True,
        metavar="CSV",
        help="The table: columns arch, index if there are numbers, and values: accuracies in percent, or by name "
        "costs (..._ms, ..._mj, parameters, multiply_adds).",
    )
    return parser


def run(arguments: Sequence[str]) -> int:
    """Print the architecture's row."""
    options = make_parser().parse_args(list(arguments))
    architecture = open_architecture(options.arch)
    say(query(load_table(options.table), architecture).to_text(), end="")
    return 0
