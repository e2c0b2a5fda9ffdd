"""Options made from typed dataclasses: what their fields document, the command line offers."""

from __future__ import annotations

import argparse
import difflib
import functools
import operator
import re
import sys
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, NoReturn, Union

from jsonargparse import ActionYesNo, ArgumentParser, DefaultHelpFormatter

from archgrad.options import docs_of, hints_of, signature_of
from archgrad.terminal import say

__all__ = ["Parser", "dashed", "plain_type"]

_ALSO = {"metrics": ("--metric",)}
"""Further spellings of options."""
_IN_WORDS = {"int": "a whole number", "float": "a number"}
_PLAIN = (bool, int, float, str, type(None))


class _FlagOrWord(ActionYesNo):
    """`--fast` and `--no-fast`, which say True and False, and `--fast WORD`, with one of some words."""

    def __init__(self, words: Collection[str] = (), **options: Any) -> None:
        self._words = options.pop("_words", words)
        super().__init__(no_prefix="no-") if not options else super().__init__(**options, nargs="?")
        self.metavar = f"{{{','.join(self._words)}}}"

        def word(text: str) -> Any:  # what argparse prints of a method would have no end
            try:
                return self._check_type(text)
            except TypeError as error:
                raise argparse.ArgumentTypeError(str(error)) from None

        self.type = word

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        if not arguments:
            return _FlagOrWord(_words=self._words, _no_prefix="no-", **options)
        _, values, given, typed = arguments
        if typed.startswith("--no-") and given is not None:
            raise TypeError(f"{typed} takes no value")
        setattr(values, self.dest, not typed.startswith("--no-") if given is None else given)

    def _check_type(self, value: Any) -> Any:
        if value in self._words:
            return value
        try:
            return ActionYesNo._boolean_type(value)
        except TypeError:
            raise TypeError(f"takes one of {', '.join(self._words)}, but got {value}") from None


class _Help(DefaultHelpFormatter):
    """Says each thing once: no type where the choices are listed, no default where the text tells it."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = super()._get_help_string(action)
        text = re.sub(r"\(type: %\(type\)s, (default: .*)\)$", r"(\1)", text) if "{" in str(action.metavar) else text
        text = re.sub(r",? ?default: %\(default\)s\)$", ")", text) if "y default" in text else text
        return text.removesuffix(" ()")


class Parser(ArgumentParser):
    """The parser of one command: `--long-names`, `--flag` and `--no-flag`, errors in a line or two.

    Args:
        command: The command's name.
        description: What it does.
        positional: What comes before the options in the usage line.

    Attributes:
        passed_on: The parameters of the command's function that became options.
        recipes: Values of options by what `--recipe` takes; others that are typed win, and a recipe that is typed wins
            over a file, which wins over the recipe that it names.
    """

    passed_on: Sequence[str] = ()
    recipes: Mapping[str, Mapping[str, Any]] = types.MappingProxyType({})

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
        self, documented: type, title: str, *, only: Collection[str] | None = None, skip: Collection[str] = ()
    ) -> list[str]:
        """Add each plain field of a dataclass as an option, with its type, default and documentation.

        Args:
            documented: The dataclass, with a docstring under each field.
            title: Heading in `--help`.
            only: The fields that are offered; None for all.
            skip: Fields that are not offered, besides those that take objects.

        Returns:
            The fields that became options.
        """
        group = self.add_argument_group(title)
        hints, docs, offered = hints_of(documented), docs_of(documented), []
        for name, parameter in signature_of(documented).parameters.items():
            kind = plain_type(hints[name])
            if kind is not None and name not in skip and (only is None or name in only):
                text = docs.get(name, "").replace("`run_dir`", "--out")
                typed = (f"--{name}", *_ALSO.get(name, ()))
                group.add_argument(*typed, type=kind, default=parameter.default, help=text)
                offered.append(name)
        return offered

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
            kind = re.sub(r"^Optional\[(.*)\]$", r"\1", kind).removesuffix(" | null")
            kind = _IN_WORDS.get(kind, kind)
            kind = f"one of {str(action.metavar)[1:-1].replace(',', ', ')}" if kind.startswith("Literal") else kind
            example = f", such as {list(action.default)}" if isinstance(action.default, tuple) else ""
            return f"{dashed(f'--{match[1]}')} takes {kind}{example}, but got {match[2]}"
        if "arguments are required: " in message:
            head, _, missing = message.partition("required: ")
            names = [actions[name] for name in missing.split(", ") if name in actions]
            return f"{head}required: " + ", ".join((*action.option_strings, str(action.metavar))[0] for action in names)
        for unknown in re.findall(r"--[\w-]+", message) if "unrecognized arguments" in message else []:
            near = _abbreviated(unknown, self._option_string_actions)
            near = near or difflib.get_close_matches(unknown, self._option_string_actions, n=1)
            if unknown not in self._option_string_actions and near:
                return f"{message}. Did you mean {near[0]}?"
        return message


def _abbreviated(typed: str, options: Collection[str]) -> list[str]:
    """Return the options whose words begin with the letters typed: --lr is --learning-rate."""
    letters = typed.lstrip("-")
    return [option for option in options if letters == "".join(word[:1] for word in option.lstrip("-").split("-"))][:1]


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


def _as_flag(options: dict[str, Any]) -> dict[str, Any]:
    parts = typing.get_args(options.get("type"))
    if bool in parts and any(typing.get_origin(part) is Literal for part in parts):
        words = [word for part in parts if typing.get_origin(part) is Literal for word in typing.get_args(part)]
        return {**{name: value for name, value in options.items() if name != "type"}, "action": _FlagOrWord(words)}
    if options.get("type") in (bool, bool | None) and "type" in options:
        value = {"nargs": "?"} if options["type"] == bool | None else {}  # `--flag true` as well
        options = {name: value for name, value in options.items() if name != "type"}
        return {**options, **value, "action": ActionYesNo(no_prefix="no-")}
    return options
