"""Which command runs, and what a person sees when it cannot."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from archgrad.errors import ArchgradError

__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "search": "Search an architecture by gradient descent.",
    "retrain": "Train an architecture from scratch.",
    "report": "Draw runs as one HTML file.",
    "export": "Write a retrained network as ONNX, or as a program of torch.export.",
    "predict": "Classify images with a retrained network.",
    "show": "Show an architecture in the terminal, as a picture, or as DOT.",
    "query": "Look an architecture up in a table of NAS-Bench-201.",
    "spaces": "List the search spaces.",
    "steps": "List the bilevel steps: how the gradient of the alphas is computed.",
    "relaxations": "List the relaxations: how alphas become mixing weights.",
    "methods": "List the methods of search, and the parts that they are made of.",
}
"""Name -> what it does. A command is imported only when it runs, so that `--help` does not wait for torch."""

_LISTS = ("spaces", "steps", "relaxations")
_USAGE_ERROR = 2
_SIGNALLED = 128


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: The arguments after the program's name; those of the process if not given.

    Returns:
        The exit status: 0, or 2 where something asked for cannot be done; 128 + signal after an interruption.

    Raises:
        SystemExit: After `--help`, a usage error (2), or an interruption that was saved (128 + signal).
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        with _warnings_in_one_line():
            status = _run(arguments)
            sys.stdout.flush()
        return status
    except ArchgradError as error:
        print(f"Error: {error}", file=sys.stderr)
        return _USAGE_ERROR
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough. What is still buffered must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _SIGNALLED + 13
    except KeyboardInterrupt:
        print("Interrupted before there was anything to save.", file=sys.stderr)
        return _SIGNALLED + 2


def _run(arguments: list[str]) -> int:
    name, *rest = arguments or ["--help"]
    if name in ("-h", "--help"):
        print(_help(), end="")
        return 0
    if name == "--version":
        from archgrad import __version__

        print(f"archgrad {__version__}")
        return 0
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        print(
            f"archgrad: error: there is no command '{name}'.{hint} 'archgrad --help' lists the commands.",
            file=sys.stderr,
        )
        return _USAGE_ERROR
    if name in _LISTS:
        from archgrad.cli.lists import run_list

        return run_list(name, rest)
    return int(importlib.import_module(f"archgrad.cli.{name}").run(rest))


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [
        "usage: archgrad COMMAND [options]",
        "",
        "Differentiable architecture search over any PyTorch module.",
        "",
        "commands:",
        *(f"  {name:{width}}  {what}" for name, what in COMMANDS.items()),
        "",
        "'archgrad COMMAND --help' documents every option of a command. A first search, in a few minutes on two cores:",
        "  archgrad search --channels 4 --cells 3 --epochs 5",
    ]
    return "\n".join(lines) + "\n"


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Show a warning as its message; where in the code it was raised says nothing to who typed a command."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"Warning: {message}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before
