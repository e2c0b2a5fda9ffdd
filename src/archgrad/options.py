"""Options said once: the fields of a frozen dataclass are the keywords of a function, and their docs are its docs."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
import typing
from collections.abc import Callable
from dataclasses import fields
from functools import cache, wraps
from typing import Any, ParamSpec, TypeGuard, TypeVar

from archgrad.errors import did_you_mean

__all__ = ["Options", "docs_of", "hints_of", "is_class", "names_of", "signature_of", "takes", "values_of"]

P = ParamSpec("P")
Taken = TypeVar("Taken")
Returned = TypeVar("Returned")
_WIDTH = 116


class Options:
    """What dataclasses of options have in common: each checks its own fields, after those of the classes before it."""

    def __post_init__(self) -> None:
        """Refuse values outside their ranges."""


def takes(options: Callable[P, Taken]) -> Callable[[Callable[[Taken], Returned]], Callable[P, Returned]]:
    """Make a function of an object of options a function of the options themselves.

    `help`, `inspect.signature` and type checkers see every option, with its type, default and documentation.

    Args:
        options: A dataclass, with a docstring under each field. Fields that are not keyword-only go by position too.

    Raises:
        TypeError: The function made is called with an option that there is not, or without one that it needs.
    """

    def decorate(function: Callable[[Taken], Returned]) -> Callable[P, Returned]:
        name = function.__name__
        signature = signature_of(options).replace(return_annotation=function.__annotations__["return"])

        @wraps(function)
        def call(*arguments: P.args, **keywords: P.kwargs) -> Returned:
            try:
                signature.bind(*arguments, **keywords)
            except TypeError as error:
                unknown = [each for each in keywords if each not in signature.parameters and repr(each) in str(error)]
                hint = did_you_mean(unknown[0], signature.parameters) if unknown else ""
                raise TypeError(f"{name}() {error}{'.' if hint else ''}{hint}") from None
            return function(options(*arguments, **keywords))

        call.__signature__ = signature  # type: ignore[attr-defined]
        hints = hints_of(options)
        returned = {"return": function.__annotations__["return"]}
        call.__annotations__ = {each: hints[each] for each in signature.parameters} | returned
        if function.__doc__ is not None:  # as it is under python -OO
            head, before, tail = inspect.cleandoc(function.__doc__).partition("Returns:\n")
            call.__doc__ = head + _section(docs_of(options), signature) + before + tail
        return call

    return decorate


def signature_of(options: Any) -> inspect.Signature:
    """Return the parameters of a dataclass, its own before those that it inherits."""
    signature, order = inspect.signature(options), names_of(options)
    return signature.replace(
        parameters=sorted(signature.parameters.values(), key=lambda each: (each.kind, order.index(each.name)))
    )


def hints_of(options: Any) -> dict[str, Any]:
    """Return the type of each field of a dataclass, or of each parameter of a function."""
    # Python 3.10 does not take the mark KW_ONLY among the fields for a type.
    return typing.get_type_hints(options, localns={"KW_ONLY": object})


def is_class(value: Any) -> TypeGuard[type]:
    """Return whether a value is a class, which Python 3.10 takes `tuple[int, ...]` for, too."""
    return isinstance(value, type) and typing.get_origin(value) is None


def docs_of(options: Any) -> dict[str, str]:
    """Return the documentation of each field of a dataclass; one that is declared again without keeps that of before.

    It is read from the source, so that there is none where the source is not.
    """
    return {name: text for owner in reversed(inspect.getmro(options)) for name, text in _own_docs(owner)}


def names_of(owner: Any) -> tuple[str, ...]:
    """Return the names of the options of a dataclass, its own before those that it inherits."""
    options, classes = {field.name for field in fields(owner)}, inspect.getmro(owner)
    first = {name: each for each in classes for name in inspect.get_annotations(each)}  # where a name comes from
    return tuple(
        name for each in classes for name in inspect.get_annotations(each) if first[name] is each and name in options
    )


def values_of(options: Any, owner: type) -> dict[str, Any]:
    """Return the options of a class, of an object of a class that extends it."""
    return {name: getattr(options, name) for name in names_of(owner)}


def _own_docs(owner: type) -> list[tuple[str, str]]:
    for node in _source(owner.__module__).body if inspect.get_annotations(owner) else ():
        if isinstance(node, ast.ClassDef) and node.name == owner.__name__:
            return [
                (field.target.id, " ".join(text.value.value.split()))
                for field, text in zip(node.body, node.body[1:], strict=False)
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
                if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
                if isinstance(text.value.value, str)
            ]
    return []


@cache
def _source(module: str) -> ast.Module:
    try:
        return ast.parse(inspect.getsource(sys.modules[module]))
    except (OSError, KeyError):
        return ast.Module(body=[], type_ignores=[])


def _section(docs: dict[str, str], signature: inspect.Signature) -> str:
    lines = [
        textwrap.fill(
            f"{name}: {docs.get(name, '')}",
            _WIDTH,
            initial_indent="    ",
            subsequent_indent="        ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        for name in signature.parameters
    ]
    return "\n".join(["Args:", *lines, "", ""])
