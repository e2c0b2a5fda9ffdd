"""Options made from typed signatures: what a function documents, the command line offers."""

from __future__ import annotations

import argparse
import difflib
import functools
import inspect
import operator
import re
import sys
import types
import typing
from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal, NoReturn, Union

from jsonargparse import ActionYesNo, ArgumentParser, DefaultHelpFormatter, set_parsing_settings

from archgrad.terminal import say

__all__ = ["Parser", "dashed", "plain_type"]

_PLAIN = (bool, int, float, str, type(None))


class _Help(DefaultHelpFormatter):
    """Says each thing once: no type where the choices are listed, no default where the text tells it."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = super()._get_help_string(action)
        text = re.sub(r"\(type: %\(type\)s, (default: .*)\)$", r"(\1)", text) if "{" in str(action.metavar) else text
        return re.sub(r",? ?default: %\(default\)s\)$", ")", text) if "y default" in text else text


class Parser(ArgumentParser):
    """The parser of one command: `--long-names`, `--flag` and `--no-flag`, errors in a line or two.

    Args:
        command: The command's name.
        description: What it does.
        positional: What comes before the options in the usage line.

    Attributes:
        passed_on: The parameters of the command's function that became options.
    """

    passed_on: Sequence[str] = ()

    def __init__(self, command: str, description: str, *, positional: str = "") -> None:
        name = f"archgrad {command}"
        super().__init__(
            prog=name,
            usage=f"{name} {positional}[options]",
            description=description,
            allow_abbrev=False,
            formatter_class=_Help,
        )

    def add_argument(self, *names: str, **options: Any) -> Any:
        """Add an option, `_` in its name spelled `-`, a bool as a pair of flags."""
        # jsonargparse copies this method into its argument groups, so it calls only what the module holds.
        return super().add_argument(*map(dashed, names), **_as_flag(options))

    def add_options_of(
        self,
        documented: Callable[..., Any],
        title: str,
        *,
        only: Collection[str] | None = None,
        skip: Collection[str] = (),
    ) -> list[str]:
        """Add each plain parameter of a function or class as an option, with its type, default and documentation.

        Args:
            documented: A function, or a class whose constructor is meant.
            title: Heading in `--help`.
            only: The parameters that are offered; None for all.
            skip: Parameters that are not offered, besides those that take objects.

        Returns:
            The parameters that became options.
        """
        # A class documents its parameters under its fields.
        set_parsing_settings(docstring_parse_attribute_docstrings=True)
        hints = _plain_hints(documented)
        offered = [name for name in hints if name not in skip and (only is None or name in only)]
        group = self.add_argument_group(title)
        if isinstance(documented, type):
            hidden = set(inspect.signature(documented).parameters) - set(offered)
            return group.add_class_arguments(documented, as_group=False, skip=hidden)
        return group.add_function_arguments(
            _plain_view(documented, {name: hints[name] for name in offered}), as_group=False
        )

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong, with the nearest option where one is unknown, and exit with status 2."""
        text = self._readable(message)
        say(f"{self.prog}: error: {text}\n'{self.prog} --help' documents every option.", error=True)
        sys.exit(2)

    def _readable(self, message: str) -> str:
        """Return jsonargparse's message in the words of who typed the option."""
        actions = {action.dest: action for action in self._actions}
        if (match := re.match(r'Parser key "(\w+)":.*(?:Got|Given) value: (.*)', message, re.DOTALL)) and (
            action := actions.get(match[1])
        ):
            kind = _Help(self.prog)._get_type_str(action) or ""
            kind = re.sub(r"^Optional\[(.*)\]$", r"\1 | null", kind)
            kind = f"one of {str(action.metavar)[1:-1].replace(',', ', ')}" if kind.startswith("Literal") else kind
            example = f", such as {list(action.default)}" if isinstance(action.default, tuple) else ""
            return f"{dashed(f'--{match[1]}')} takes {kind}{example}, but got {match[2]}"
        if "arguments are required: " in message:
            head, _, missing = message.partition("required: ")
            names = [actions[name] for name in missing.split(", ") if name in actions]
            return f"{head}required: " + ", ".join((*action.option_strings, str(action.metavar))[0] for action in names)
        for unknown in re.findall(r"--[\w-]+", message) if "unrecognized arguments" in message else []:
            near = difflib.get_close_matches(unknown, self._option_string_actions, n=1)
            if unknown not in self._option_string_actions and near:
                return f"{message}. Did you mean {near[0]}?"
        return message


def dashed(name: str) -> str:
    """Return an option's name as it is typed: `--batch_size` becomes `--batch-size`; arguments stay."""
    return name.replace("_", "-") if name.startswith("--") else name


def plain_type(hint: Any) -> Any:
    """Return the part of a type hint that can be typed in a terminal, or None if there is none but None itself."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint in _PLAIN or origin is Literal:
        return hint
    if origin in (tuple, list) and all(plain_type(part) is not None for part in inner):
        return hint
    if origin in (Union, types.UnionType):
        parts = [part for part in inner if plain_type(part) is not None]
        return functools.reduce(operator.or_, parts) if set(parts) - {type(None)} else None
    return None


def _plain_hints(documented: Callable[..., Any]) -> dict[str, Any]:
    """Return the plain parameters, each with the part of its type that can be typed."""
    function = documented.__init__ if isinstance(documented, type) else documented  # type: ignore[misc]
    hints = {}
    for name in inspect.signature(documented).parameters:
        holder = types.SimpleNamespace(__annotations__={name: function.__annotations__[name]})
        try:
            hint = plain_type(typing.get_type_hints(holder, globalns=sys.modules[documented.__module__].__dict__)[name])
        except NameError:  # names what only type checkers import, which is never plain
            continue
        if hint is not None:
            hints[name] = hint
    return hints


def _plain_view(function: Callable[..., Any], hints: dict[str, Any]) -> Callable[..., Any]:
    """Return a stand-in with the documentation and defaults of a function, but only its plain parameters."""

    def view() -> None: ...

    parameters = inspect.signature(function).parameters
    kept = [parameters[name].replace(annotation=hint) for name, hint in hints.items()]
    view.__signature__ = inspect.Signature(kept)  # type: ignore[attr-defined]
    view.__annotations__ = dict(hints)
    view.__doc__ = (function.__doc__ or "").replace("`run_dir`", "--out")
    view.__module__, view.__qualname__ = function.__module__, function.__qualname__
    return view


def _as_flag(options: dict[str, Any]) -> dict[str, Any]:
    if options.get("type") in (bool, bool | None) and "type" in options:
        options = {name: value for name, value in options.items() if name != "type"}
        return {**options, "action": ActionYesNo(no_prefix="no-")}
    return options
