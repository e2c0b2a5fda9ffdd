"""Which command runs, and what a person sees when it cannot."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from archgrad.cli.commands import COMMANDS
from archgrad.errors import ArchgradError, did_you_mean
from archgrad.terminal import finish_output, hold_standard_streams, lost_output, say, typed_command

__all__ = ["main"]

_WRITING = ("search", "retrain", "random-search", "study", "report", "export", "convert", "nni-run")
"""Commands whose result is in files, so that they have done their work also where nothing can be printed."""
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
    hold_standard_streams()
    try:
        with _warnings_in_one_line(), typed_command():
            status = _run(arguments)
    except ArchgradError as error:
        say(f"Error: {error}", error=True)
        status = _USAGE_ERROR
    except KeyboardInterrupt:
        say("Interrupted before there was anything to save.", error=True)
        status = _SIGNALLED + 2
    finally:
        finish_output()
    lost = lost_output()
    if status or lost is None or (arguments and arguments[0] in _WRITING):
        return status
    if isinstance(lost, BrokenPipeError):  # the reader, such as `head`, has seen enough
        return _SIGNALLED + 13
    say(f"Error: The result cannot be written to standard output: {lost}. Write it elsewhere.", error=True)
    return _USAGE_ERROR


def _run(arguments: list[str]) -> int:
    name, *rest = arguments or ["--help"]
    if name in ("-h", "--help"):
        say(_help(), end="")
        return 0
    if name == "--version":
        from archgrad import __version__

        say(f"archgrad {__version__}")
        return 0
    if name not in COMMANDS:
        hint = did_you_mean(name, COMMANDS)
        say(f"archgrad: error: there is no command '{name}'.{hint} 'archgrad --help' lists the commands.", error=True)
        return _USAGE_ERROR
    if name in _LISTS:
        from archgrad.cli.lists import run_list

        return run_list(name, rest)
    return int(importlib.import_module(f"archgrad.cli.{name.replace('-', '_')}_command").run(rest))


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
    before = warnings.showwarning
    warnings.showwarning = lambda message, *_, **__: say(f"Warning: {message}", error=True)
    try:
        yield
    finally:
        warnings.showwarning = before
