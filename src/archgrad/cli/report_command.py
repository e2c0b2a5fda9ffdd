"""`archgrad report`: run folders in, one HTML file and pictures out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from archgrad.cli.commands import COMMANDS
from archgrad.cli.parser import Parser
from archgrad.terminal import say

__all__ = ["make_parser", "run"]


def make_parser() -> Parser:
    """Return the parser."""
    parser = Parser("report", COMMANDS["report"], positional="RUN... ")
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="Run folders of searches and retrainings; several are compared."
    )
    parser.add_argument(
        "--out",
        type=str | None,
        help="The HTML file, or a folder for it. By default report.html in the run folder, or comparison.html in the "
        "first of several. Each picture also goes as PNG and SVG into the folder report/ of its run, unless the page "
        "goes elsewhere and the run may not be written.",
    )
    return parser


def run(arguments: Sequence[str]) -> int:
    """Write the report and print where it lies."""
    options = make_parser().parse_args(list(arguments))
    from archgrad.report import write_report  # here, so that --help does not wait for it

    page = write_report(
        [Path(folder) for folder in options.runs], out=None if options.out is None else Path(options.out)
    )
    say(str(page))
    return 0
