"""The command line: `archgrad COMMAND ...`, one command a file."""

from archgrad.cli.main import main

__all__ = ["main"]
