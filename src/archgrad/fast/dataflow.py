"""What a module of a person's own does with its input, read from its code: parts one after the other, and little more.

    def forward(self, x):
        x = F.relu(x)
        return self.bn(self.pointwise(self.depthwise(x)))

Nothing is run. Only straight code is read, whose every expression is in the short list below, and branches that an
attribute of the module decides (`x + y if self.is_residual else y`, or `if self.is_residual:` with `return` in it); of
anything else (another branch, a loop, another function) nothing is said. The text of a file may have changed since
the code was loaded, so it must compile to what the function consists of.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import combinations
from types import CodeType, FunctionType
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F

from archgrad.exactness import as_named
from archgrad.fast.activations import FUNCTIONS, METHODS

__all__ = [
    "INPUT",
    "Activated",
    "Either",
    "Input",
    "Joined",
    "Part",
    "Shifted",
    "Sum",
    "Value",
    "flags_of",
    "read_forward",
]


class Input(NamedTuple):
    """What the module is called with."""


class Part(NamedTuple):
    """A part of the module, called with a value."""

    path: tuple[str | int, ...]
    """From the module to the part: names of attributes, numbers in brackets."""
    x: Value


class Activated(NamedTuple):
    """A known activation by a function or method."""

    name: str
    x: Value


class Shifted(NamedTuple):
    """Without the first row and column of pixels, `x[:, :, 1:, 1:]`."""

    x: Value


class Joined(NamedTuple):
    """Two values joined along the channels."""

    first: Value
    second: Value


class Sum(NamedTuple):
    """Two values added."""

    first: Value
    second: Value


class Either(NamedTuple):
    """One of two values, as an attribute of the module says that is True or False."""

    flag: str
    yes: Value
    no: Value


Value: TypeAlias = Input | Part | Activated | Shifted | Joined | Sum | Either
INPUT = Input()


def flags_of(kind: type) -> frozenset[str]:
    """Return the attributes of a module that decide what its class's `forward` returns, as far as it is read here."""
    forward = getattr(kind, "forward", None)
    value = read_forward(forward) if isinstance(forward, FunctionType) else None
    return frozenset(part.flag for part in _all_in(value) if isinstance(part, Either))


@lru_cache(maxsize=512)
def read_forward(function: FunctionType) -> Value | None:
    """Return what a `forward` of one input returns; None if its code says more than is read here."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return None
    if len(tree.body) != 1 or not isinstance(tree.body[0], ast.FunctionDef):
        return None
    definition = tree.body[0]
    takes = definition.args
    if definition.decorator_list or len(takes.args) != 2 or takes.posonlyargs or takes.kwonlyargs or takes.defaults:
        return None
    if takes.vararg or takes.kwarg:
        return None
    own, x = (argument.arg for argument in takes.args)
    value = _Reader(own, function.__globals__, {x: INPUT}).run(definition.body)
    return value if value is not None and _is_text_of(tree, function) else None


def _is_text_of(tree: ast.Module, function: FunctionType) -> bool:
    """Whether a function was compiled from this text, whichever of its names were imported beside it.

    Calls of a function of an imported module have code of their own.
    """
    loaded = function.__code__
    called = {name for node in ast.walk(tree) if (name := _name_called_on(node)) is not None}
    for k in range(len(called) + 1):
        for imported in combinations(sorted(called), k):
            imports = [ast.Import([ast.alias(name)]) for name in imported]
            text = ast.fix_missing_locations(ast.Module([*imports, *tree.body], []))
            compiled = [c for c in compile(text, loaded.co_filename, "exec").co_consts if isinstance(c, CodeType)]
            if len(compiled) == 1 and all(getattr(compiled[0], name) == getattr(loaded, name) for name in _CODE):
                return True
    return False


def _name_called_on(node: ast.AST) -> str | None:
    match node:
        case ast.Call(ast.Attribute(ast.Name(name))):
            return name
    return None


_CODE = ("co_code", "co_consts", "co_names", "co_varnames", "co_argcount", "co_freevars", "co_cellvars")


class _UnreadError(Exception):
    """Something that is in no list."""


class _Reader:
    """Runs straight code on values."""

    def __init__(self, own: str, names: Mapping[str, Any], values: dict[str, Value]) -> None:
        self._own, self._names, self._values = own, names, values
        self._called: list[Part] = []

    def run(self, body: list[ast.stmt]) -> Value | None:
        """Return the value of straight code, every call of which counts in it."""
        found = self._returned(body)
        counts = {id(value) for value in _all_in(found)}
        return found if all(id(part) in counts for part in self._called) else None

    def _returned(self, body: list[ast.stmt]) -> Value | None:
        try:
            return self._run(body)
        except _UnreadError:
            return None

    def _run(self, body: list[ast.stmt]) -> Value:
        for number, statement in enumerate(body):
            match statement:
                case ast.Expr(ast.Constant(str())):  # a docstring
                    pass
                case ast.Assign([ast.Name(name)], value) if name != self._own:
                    self._values[name] = self._read(value)
                case ast.Return(ast.expr() as value) if statement is body[-1]:
                    return self._read(value)
                case ast.If(test, yes, no) if isinstance(yes[-1], ast.Return):
                    before = dict(self._values)
                    flag, found = self._flag(test), self._run(yes)
                    self._values = before
                    return Either(flag, found, self._run([*no, *body[number + 1 :]]))
                case _:
                    break
        raise _UnreadError

    def _flag(self, node: ast.expr) -> str:
        """The name of an attribute of the module that decides; not of its mode, which changes from pass to pass."""
        match node:
            case ast.Attribute(ast.Name(name), flag) if name == self._own and flag != "training":
                return flag
        raise _UnreadError

    def _read(self, node: ast.expr) -> Value:
        match node:
            case ast.Name(name) if name in self._values:
                return self._values[name]
            case ast.Subscript(x, ast.Tuple([all_, all_too, rows, columns])):
                whole = all(map(_is_whole, (all_, all_too)))
                if whole and all(map(_is_from_one, (rows, columns))):
                    return Shifted(self._read(x))
            case ast.Call(ast.Attribute(x, name), [], []) if name in METHODS and not self._is_name(x, torch, F):
                return Activated(name, self._read(x))
            case ast.Call(ast.Attribute(module, name), [x], []) if name in FUNCTIONS and self._is_name(
                module, torch, F
            ):
                return Activated(name, self._read(x))
            case ast.BinOp(first, ast.Add(), second):
                return Sum(self._read(first), self._read(second))
            case ast.IfExp(test, yes, no):
                return Either(self._flag(test), self._read(yes), self._read(no))
            case ast.Call(ast.Attribute(module, "cat"), [values, *rest], words) if self._is_name(module, torch):
                return self._joined(values, rest, words)
            case ast.Call(function, [x], []):
                path = self._path(function)
                if path:
                    self._called.append(Part(path, self._read(x)))
                    return self._called[-1]
        raise _UnreadError

    def _joined(self, values: ast.expr, rest: list[ast.expr], words: list[ast.keyword]) -> Value:
        dims = [*rest, *(word.value for word in words if word.arg == "dim")]
        match values, dims:
            case ((ast.List([first, second]) | ast.Tuple([first, second])), [ast.Constant(1)]) if (
                len(rest + words) == 1
            ):
                return Joined(self._read(first), self._read(second))
        raise _UnreadError

    def _is_name(self, node: ast.expr, *modules: object) -> bool:
        """Whether it is a global name of one of these modules, of which it is noted that it is."""
        if not isinstance(node, ast.Name) or node.id in self._values or node.id == self._own:
            return False
        found = self._names.get(node.id)
        if not any(found is module for module in modules):
            return False
        as_named(self._names, node.id)
        return True

    def _path(self, node: ast.expr) -> tuple[str | int, ...]:
        """("a", 0) of self.a[0]."""
        match node:
            case ast.Name(name) if name == self._own:
                return ()
            case ast.Attribute(ast.Name(name), part) if name == self._own:
                return (part,)
            case ast.Attribute(before, part):
                return (*self._some(before), part)
            case ast.Subscript(before, ast.Constant(int() as number)) if number >= 0:
                return (*self._some(before), number)
        raise _UnreadError

    def _some(self, node: ast.expr) -> tuple[str | int, ...]:
        path = self._path(node)
        if not path:
            raise _UnreadError
        return path


def _all_in(value: Value | None) -> Iterator[Value]:
    if value is not None:
        yield value
        for before in value:
            if isinstance(before, Value):
                yield from _all_in(before)


def _is_whole(node: ast.expr) -> bool:
    return isinstance(node, ast.Slice) and node.lower is node.upper is node.step is None


def _is_from_one(node: ast.expr) -> bool:
    match node:
        case ast.Slice(ast.Constant(1), None, None):
            return True
    return False
