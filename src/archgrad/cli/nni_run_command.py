"""`archgrad nni-run`: a script that was written for NNI, with archgrad under NNI's names."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from archgrad.cli.commands import COMMANDS
from archgrad.cli.parser import Parser
from archgrad.errors import OptionError
from archgrad.json_text import shown
from archgrad.nni import install
from archgrad.paths import from_home

__all__ = ["make_parser", "run"]


def make_parser() -> Parser:
    """Return the parser."""
    parser = Parser("nni-run", COMMANDS["nni-run"], positional="SCRIPT.py ")
    parser.add_argument(
        "script",
        metavar="SCRIPT.py",
        help="A Python program that imports nni; what follows it are the script's own arguments. It is run as it is, "
        "so name only one that you trust.",
    )
    return parser


def run(arguments: Sequence[str]) -> int:
    """Run the script as the main program of this process."""
    options = make_parser().parse_args(list(arguments[:1]))
    script = Path(from_home(options.script))
    if not script.is_file():
        raise OptionError(f"There is no script {shown(options.script)}. Name a Python file.")
    before = sys.argv, list(sys.path)
    install("nni")
    try:
        sys.argv = [str(script), *arguments[1:]]
        sys.path.insert(0, str(script.absolute().parent))
        runpy.run_path(str(script), run_name="__main__")
    finally:
        sys.argv = before[0]
        sys.path[:] = before[1]
    return 0
