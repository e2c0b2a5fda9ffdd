"""Where code may call what tells formats apart: where there are images of one pixel, or vectors.

`x.view(len(x), -1)` of an image in channels_last ends in an error, and `F.dropout` draws its mask in the order of
memory. Neither matters to an image of a single pixel, as there is behind a global pool, nor to vectors:

    x = self.pool(x)                            # nn.AdaptiveAvgPool2d(1)
    x = F.dropout(x.view(x.size(0), -1), 0.2, self.training)
    return self.classifier(x)

The text says what must hold of the parts for that; whether it does is looked up in each module.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, TypeGuard

from torch import nn

from archgrad.exactness import kind_of
from archgrad.fast.activations import ACTIVATIONS, FUNCTIONS

__all__ = ["HarmlessCalls", "gives_one_pixel", "is_adaptive_pool", "path_of", "takes_vectors"]

_ELEMENTWISE = {"dropout", *FUNCTIONS}
_POOLS = {"adaptive_avg_pool2d", "adaptive_max_pool2d"}
_OF_VECTORS = {nn.Sequential, nn.Linear, nn.BatchNorm1d, nn.LayerNorm, nn.Dropout, nn.Identity, *ACTIVATIONS}
_OF_VECTORS |= {nn.Hardsigmoid, nn.PReLU, nn.Softmax}


class _Dense(NamedTuple):
    """What a tensor is whose format does not matter, if these parts of the module are what they are taken for."""

    is_vector: bool
    """If not, it may be an image of one pixel."""
    pools: frozenset[str] = frozenset()
    """Paths of parts that `gives_one_pixel` must be true of."""
    layers: frozenset[str] = frozenset()
    """Of parts that `takes_vectors` must be true of."""


Names = Mapping[str, _Dense]


class HarmlessCalls:
    """The calls in a function of `view` and `dropout` that are the same in all formats.

    Args:
        function: Its text.
        is_of_torch: Returns whether an expression is a module of PyTorch's functions.

    Attributes:
        calls: Identities of these calls, and what is called.
        pools: Paths of parts that must give images of one pixel for that.
        layers: Paths of parts that must be layers for vectors.
    """

    def __init__(self, function: ast.FunctionDef, is_of_torch: Callable[[ast.expr], bool]) -> None:
        self.calls: dict[int, str] = {}
        self.pools: set[str] = set()
        self.layers: set[str] = set()
        self._is_of_torch = is_of_torch
        self._run(function.body, {})

    def _run(self, body: list[ast.stmt], names: Names) -> None:
        """Go through statements, with what names stand for."""
        for statement in body:
            blocks = [getattr(statement, name, []) for name in ("body", "orelse", "finalbody")]
            blocks += [handler.body for handler in getattr(statement, "handlers", [])]
            match statement:
                case ast.Assign([ast.Name(target)], value):
                    within = _without(names, _given_in([value]))
                    found = self._look_through(value, within)
                    names = _without(names, {target}) | ({} if found is None else {target: found})
                    names = _without(names, _given_in([value]))
                    continue
            names = _without(names, _given_in([statement]))
            for block in blocks:
                self._run(block, names)
            for expression in ast.iter_child_nodes(statement):
                if isinstance(expression, ast.expr):
                    self._look_through(expression, names)

    def _look_through(self, expression: ast.expr, names: Names) -> _Dense | None:
        """Note the harmless calls in an expression, and return what it is itself."""
        for node in ast.walk(expression):
            match node:
                case ast.Call(ast.Attribute(x, "view" as name), [_, *_], []):
                    self._note(node, name, self._what(x, names))
                case ast.Call(ast.Attribute(module, "dropout" as name), [x, *_]) if self._is_of_torch(module):
                    self._note(node, name, self._what(x, names))
        return self._what(expression, names)

    def _note(self, call: ast.Call, name: str, of: _Dense | None) -> None:
        odd = (given for given in call.args if isinstance(given, ast.Starred) or self._is_dtype(given))
        if of is not None and next(odd, None) is None:
            self.calls[id(call)] = name
            self.pools |= of.pools
            self.layers |= of.layers

    def _is_dtype(self, given: ast.expr) -> bool:
        return isinstance(given, ast.Attribute) and self._is_of_torch(given.value)

    def _what(self, expression: ast.expr, names: Names) -> _Dense | None:
        match expression:
            case ast.Name(name):
                return names.get(name)
            case ast.Call(ast.Attribute(module, name), [_, size], []) if name in _POOLS and self._is_of_torch(module):
                return _Dense(is_vector=False) if _is_one(size) else None
            case ast.Call(ast.Attribute(x, "view"), [_, *_], []):
                before = self._what(x, names)
                return None if before is None else before._replace(is_vector=True)
            case ast.Call(ast.Attribute(module, "flatten"), [_, ast.Constant(1)], []) if self._is_of_torch(module):
                return _Dense(is_vector=True)
            case ast.Call(ast.Attribute(x, "flatten") as method, [ast.Constant(1)], []) if path_of(method) is None:
                return None if self._is_of_torch(x) else _Dense(is_vector=True)
            case ast.Call(ast.Attribute(module, name), [x, *_]) if name in _ELEMENTWISE and self._is_of_torch(module):
                return self._what(x, names)
            case ast.Call(function, [x], []) if (path := path_of(function)) is not None:
                before = self._what(x, names)
                if before is None or not before.is_vector:
                    return _Dense(is_vector=False, pools=frozenset({path}))
                return before._replace(layers=before.layers | {path})
        return None


def path_of(node: ast.AST) -> str | None:
    """Return "a.0.b" of `self.a[0].b`; None of anything else."""
    parts: list[str] = []
    while not isinstance(node, ast.Name):
        if isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            parts.append(str(node.slice.value))
            node = node.value
        else:
            return None
    return ".".join(reversed(parts)) if node.id == "self" and parts else None


def _without(names: Names, given: Iterable[str]) -> dict[str, _Dense]:
    gone = set(given)
    return {name: what for name, what in names.items() if name not in gone}


def _given_in(nodes: Iterable[ast.AST]) -> set[str]:
    """Names that get a meaning somewhere in there, or lose it."""
    every = (node for top in nodes for node in ast.walk(top))
    return {node.id for node in every if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}


def _is_one(size: ast.expr) -> bool:
    match size:
        case ast.Constant(1) | ast.Tuple([ast.Constant(1), ast.Constant(1)]):
            return True
    return False


def gives_one_pixel(module: object) -> bool:
    """Return whether a module is a pool over all pixels."""
    if not is_adaptive_pool(module):
        return False
    return module.output_size in (1, (1, 1), [1, 1]) and not getattr(module, "return_indices", False)


def is_adaptive_pool(module: object) -> TypeGuard[nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d]:
    """Return whether a module is a pool to a number of pixels that it says."""
    return isinstance(module, nn.Module) and kind_of(module) in (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)


def takes_vectors(module: object) -> bool:
    """Return whether a module gives dense vectors for dense vectors."""
    return isinstance(module, nn.Module) and all(kind_of(part) in _OF_VECTORS for part in module.modules())
