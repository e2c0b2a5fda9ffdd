"""`archgrad show`: an architecture as text, picture or DOT."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from archgrad.cli.commands import COMMANDS
from archgrad.cli.named_architectures import FORMS, open_architecture
from archgrad.cli.parser import Parser
from archgrad.errors import OptionError, RunError
from archgrad.show import to_dot, to_text
from archgrad.terminal import say

__all__ = ["make_parser", "run"]


def make_parser() -> Parser:
    """Return the parser."""
    parser = Parser("show", COMMANDS["show"], positional="ARCH ")
    parser.add_argument("arch", metavar="ARCH", help=f"What to show: {FORMS}, or a cell of NAS-Bench-201 as text.")
    parser.add_argument("--out", type=str | None, help="Write a picture (.png, .svg) or graph (.dot) instead.")
    parser.add_argument("--dot", type=bool, default=False, help="Print Graphviz DOT instead of text.")
    return parser


def run(arguments: Sequence[str]) -> int:
    """Print or draw the architecture."""
    options = make_parser().parse_args(list(arguments))
    architecture = open_architecture(options.arch)
    if options.out is None:
        text = (
            to_dot(architecture) if options.dot else to_text(architecture, width=shutil.get_terminal_size((100, 24))[0])
        )
        say(text, end="")
        return 0
    path = Path(options.out)
    if path.suffix.lower() == ".dot":
        try:
            path.write_text(to_dot(architecture), encoding="utf-8")
        except OSError as error:
            raise RunError(f"The graph cannot be written to '{path}': {error.strerror}. Name another file.") from error
    elif options.dot:
        raise OptionError(f"--dot goes with a file that ends in .dot, but got --out {path}. Leave one of them out.")
    else:
        from archgrad.report import draw_architecture  # here, as it takes a moment that text need not wait for

        draw_architecture(architecture, path)
    say(str(path))
    return 0
