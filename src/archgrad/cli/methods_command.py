"""`archgrad methods`: the published methods as tables of their parts, and every part with its options."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Sequence
from typing import Any

from archgrad.cli.main import COMMANDS
from archgrad.cli.parser import Parser, dashed
from archgrad.methods import presets
from archgrad.methods.tree import KINDS, classes_of, options_of, tree_of
from archgrad.search.short_forms import DEFAULT, PRESETS
from archgrad.terminal import say

__all__ = ["make_parser", "run"]


def make_parser() -> Parser:
    """Return the parser, which has no options of its own."""
    return Parser("methods", COMMANDS["methods"])


def run(arguments: Sequence[str]) -> int:
    """Print the methods, then the parts."""
    make_parser().parse_args(list(arguments))
    say(
        f"{DEFAULT}\n  {presets.DEFAULT.replace('_', '-')}, which is taken without a method; docs/results.md says why\n"
    )
    for preset, method in PRESETS.items():
        say(f"{preset.replace('_', '-')}\n  {method.source}")
        for place, value in tree_of(method).items():
            if value not in (None, [], False, 0.0):
                say(f"  {place:18}{_line(value)}")
        say("")
    listed: dict[type, str] = {}
    for kind_name, kind in KINDS.items():
        say(f"{kind_name.replace('_', '-')}: {kind.what}")
        if kind.base in listed:
            say(f"  one of those of {listed[kind.base]}, with options {dashed(f'--{kind_name}')}.OPTION\n")
            continue
        listed[kind.base] = kind_name.replace("_", "-")
        for name, part in classes_of(kind).items():
            about = (inspect.getdoc(part) or "").partition("\n\n")[0].replace("\n", " ")
            say(textwrap.fill(about, 110, initial_indent=f"  {name:24}", subsequent_indent=" " * 26))
            place = f"{kind_name}.{name}" if kind.several else kind_name
            for option in options_of(part):
                default = inspect.signature(part).parameters[option].default
                shown = "(must be given)" if default is inspect.Parameter.empty else default
                say(f"{'':26}{dashed(f'--{place}.{option}')} {shown}")
        say("")
    return 0


def _line(value: Any) -> str:
    if isinstance(value, dict):
        options = ", ".join(f"{key}={_line(each)}" for key, each in value.items() if key != "name" and each is not None)
        name = str(value.get("name", ""))
        return f"{name} ({options})" if options and name else name or options or "one, as long as the search"
    if isinstance(value, list):
        return ", ".join(map(_line, value))
    return str(value)
