"""Reading the code of a person's modules: what its methods call, in all of their branches.

Nothing is run, so that nothing is printed, drawn or counted, and no branch stays unseen. What is called must be a part
or a method of the module itself, or in a list of functions whose result does not depend on the memory format of images.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import math
import textwrap
from collections.abc import Sequence
from operator import is_
from types import FunctionType, GetSetDescriptorType, MemberDescriptorType
from typing import Any, NamedTuple, TypeGuard, cast
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import nn

from archgrad.exactness import computes_by
from archgrad.fast.harmless_calls import HarmlessCalls, gives_one_pixel, path_of, takes_vectors

__all__ = ["Reading", "methods_of", "read_module"]


class Reading(NamedTuple):
    """What was read."""

    tells_formats_apart: bool = False
    """Something is called, or an attribute read, that is in no list."""
    writes_in_place: bool = False
    """A tensor may be changed in place: `x += y`, `x[0] = y`, `x.relu_()`, `F.relu(x, inplace=True)`."""
    joins_or_copies: bool = False
    """Something gives a view or a copy as the format is: `flatten`, `reshape`, `contiguous`."""
    reaches_beyond: bool = False
    """Something outlasts the call or is read of another module's state: an attribute is set, a list or set that was not
    made there is added to, what a BatchNorm tracks is read, or something that is gone through later is given out."""
    parts: frozenset[str] = frozenset()
    """What is called of the module itself, as paths: "conv", "blocks.0"."""
    containers: frozenset[str] = frozenset()
    """What of the module itself is gone through, each entry being called; "nodes.*" is each entry of "nodes"."""
    pools: frozenset[str] = frozenset()
    """Parts that must give one pixel, and those that must take vectors (see `harmless_calls`)."""
    layers: frozenset[str] = frozenset()

    def merged(self, other: Reading) -> Reading:
        """Return what both say together."""
        return Reading(
            self.tells_formats_apart or other.tells_formats_apart,
            self.writes_in_place or other.writes_in_place,
            self.joins_or_copies or other.joins_or_copies,
            self.reaches_beyond or other.reaches_beyond,
            self.parts | other.parts,
            self.containers | other.containers,
            self.pools | other.pools,
            self.layers | other.layers,
        )


_COPY_OR_VIEW = {"flatten", "reshape", "contiguous"}
_METHODS = {
    *("add", "sub", "mul", "div", "relu", "sigmoid", "tanh", "mean", "sum", "amax", "chunk", "split", "softmax"),
    *("size", "dim", "squeeze", "unsqueeze", "detach", "clone", "float", "clamp", "exp", "sqrt", "square", "abs"),
    *("permute", "transpose", "expand", "expand_as", "repeat", "unbind", "pow", "matmul", "var", "std", "prod"),
    *("items", "values", "keys", "append"),
    *_COPY_OR_VIEW,
}
_FUNCTIONS = {
    *("add", "sub", "mul", "cat", "stack", "mean", "sum", "relu", "sigmoid", "tanh", "maximum", "minimum", "amax"),
    *("chunk", "split", "relu6", "leaky_relu", "gelu", "silu", "hardswish", "hardsigmoid", "softmax", "log_softmax"),
    *("elu", "celu", "selu", "mish", "hardtanh", "softplus", "permute", "matmul", "bmm", "einsum", "where", "pow"),
    *("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "pad", "interpolate", "conv2d"),
    *("linear", "dropout2d", "normalize", "exp", "sqrt", "square", "abs", "clamp"),
    *_COPY_OR_VIEW,
}
_BUILTINS = {
    *("len", "range", "zip", "enumerate", "int", "float", "list", "tuple", "dict", "sum", "max", "min", "reversed"),
    *("super", "isinstance", "bool", "str", "ValueError", "RuntimeError", "TypeError", "any", "all", "abs"),
}
_ATTRIBUTES = {"shape", "dtype", "device", "ndim", "training", "is_cuda"}
_TRACKED = {"running_mean", "running_var", "num_batches_tracked", "_buffers"}
_MODULES = (torch, F, math)
_IN_PLACE_AT = {
    **{"relu": 1, "relu6": 1, "silu": 1, "hardswish": 1, "hardsigmoid": 1},
    **{"leaky_relu": 2, "elu": 2, "celu": 2, "selu": 1, "mish": 1, "hardtanh": 3, "normalize": 4},
    **{"dropout": 3, "dropout2d": 3},
}
"""The position of an argument of a function that lets it write in place, or says what it writes to."""
_GOING_THROUGH = {"zip", "reversed", "enumerate", "values", "items", "keys"}
"""What gives something that only shows its entries when it is gone through."""
_OF_MODULE = {"forward", "train", "eval", "extra_repr"}
"""Methods of PyTorch's modules that neither keep nor read anything of a pass."""


def read_module(module: nn.Module, kind: type[nn.Module]) -> Reading | None:
    """Return what the methods of a module's class do, those of its bases up to PyTorch's included.

    Args:
        module: The module.
        kind: Its class, which a person wrote.

    Returns:
        None if some of it cannot be read, or something of the module is called that is neither part nor method.
    """
    found = _read_class(kind)
    if found is None:
        return None
    are_pools = all(gives_one_pixel(_at(module, path)) for path in found.pools)
    if not are_pools or not all(takes_vectors(_at(module, path)) for path in found.layers):
        found = found._replace(tells_formats_apart=True)
    for path in found.containers:
        if not _holds_modules(module, path):
            return None
    for path in found.parts:
        if not isinstance(_at(module, path), nn.Module) and not _is_own_method(module, path):
            return None
    return found


def _at(module: nn.Module, path: str) -> object:
    found: object = module
    for name in path.split("."):
        found = found._modules.get(name) if isinstance(found, nn.Module) else None
    return found


def _holds_modules(module: nn.Module, path: str) -> bool:
    first, *entries = path.split(".*")
    found = [_at(module, first)]
    for _ in entries:
        if not all(map(_is_container, found)):
            return False
        found = [part for one in found for part in cast(nn.Module, one)._modules.values()]
    return all(map(_is_container, found))


def _is_container(found: object) -> bool:
    return isinstance(found, nn.ModuleList | nn.ModuleDict | nn.Sequential)


def _is_own_method(module: nn.Module, name: str) -> bool:
    """Whether it is a method that a person's class defines, which has then been read."""
    if name in vars(module):
        return False
    owner = next((kind for kind in type(module).__mro__ if name in vars(kind)), nn.Module)
    given = vars(owner).get(name)
    method = isinstance(given.__func__ if isinstance(given, staticmethod | classmethod) else given, FunctionType)
    return method and owner is not nn.Module and not owner.__module__.startswith("torch.")


def methods_of(kind: type) -> list[object]:
    """Return what a class defines that code may call, or that is computed when it is read."""
    return [value for value in vars(kind).values() if callable(value) or hasattr(value, "__get__")]


_READ: WeakKeyDictionary[type, tuple[list[object], Reading | None]] = WeakKeyDictionary()
"""What was read of a class, and what it and its bases defined then."""


def _read_class(kind: type[nn.Module]) -> Reading | None:
    own = (base for base in kind.__mro__ if not base.__module__.startswith("torch."))
    methods = [method for base in own for method in methods_of(base)]
    then, found = _READ.get(kind, ([], None))
    if not then or len(then) != len(methods) or not all(map(is_, then, methods)):
        found = _read_methods(kind)
        _READ[kind] = methods, found
    return found


def _read_methods(kind: type[nn.Module]) -> Reading | None:
    found = Reading()
    for base in kind.__mro__:
        if base in (nn.Module, object) or (base is nn.Sequential and computes_by(kind, base)):
            continue
        if base.__module__.startswith("torch."):
            return None  # a layer of PyTorch's with something changed
        for name, value in vars(base).items():
            function = value.__func__ if isinstance(value, staticmethod | classmethod) else value
            if not isinstance(function, FunctionType):
                if hasattr(function, "__get__") and not isinstance(function, _SLOTS):
                    return None  # a property, or a method that something was made of
                continue
            if name == "__init__":
                continue
            if hasattr(function, "__wrapped__"):  # its text is another function's
                return None
            try:
                tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
            except (OSError, TypeError, SyntaxError):
                return None
            found = found.merged(_Reader(function.__globals__, function.__code__.co_freevars).read(tree))
    return found


_SLOTS = (type, GetSetDescriptorType, MemberDescriptorType)


class _Reader:
    """Reads one function."""

    def __init__(self, names: dict[str, Any], of_other_functions: Sequence[str]) -> None:
        self._names = names
        self._own = set(of_other_functions)
        """Names that the function gives a meaning of its own, but for those of `_loops`."""
        self._parts: set[str] = set()
        self._containers: set[str] = set()
        self._loops: dict[str, set[str]] = {}
        self._targets: set[int] = set()

    def read(self, tree: ast.Module) -> Reading:
        (function,) = tree.body
        if not isinstance(function, ast.FunctionDef) or function.decorator_list:
            return Reading(True, True, True, True)
        nodes = [node for statement in function.body for node in ast.walk(statement)]
        calls = [node for node in nodes if isinstance(node, ast.Call)]
        called = {id(call.func) for call in calls}
        for node in nodes:
            if isinstance(node, ast.For | ast.comprehension):
                self._loop(node.target, node.iter)
        self._own |= {node.arg for node in ast.walk(function.args) if isinstance(node, ast.arg)} - {"self"}
        self._own |= {node.id for node in nodes if _is_given(node) and id(node) not in self._targets}
        harmless = HarmlessCalls(function, lambda module: self._module(_root(module)) is not None)
        names = [harmless.calls.get(id(call)) or self._called(call.func) for call in calls]
        strange = (
            *(ast.Lambda, ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Await),
            *(ast.Global, ast.Nonlocal, ast.Match),
        )
        unknown = any(name is None for name in names) or any(isinstance(node, strange) for node in nodes)
        unknown |= not all(
            self._is_harmless(node) for node in nodes if isinstance(node, ast.Attribute) and id(node) not in called
        )
        in_place = any(
            isinstance(node, ast.AugAssign)
            or (isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store))
            or (isinstance(node, ast.Call) and _may_write(node))
            for node in nodes
        )
        in_place |= any(name is not None and name.endswith("_") for name in names)
        in_place |= any(word.arg in ("inplace", "out", None) for call in calls for word in call.keywords)
        copies = any(name in _COPY_OR_VIEW for name in names)
        beyond = _reaches_beyond(function, nodes) or _gives_out_unseen(nodes)
        every = (self._parts, self._containers, harmless.pools, harmless.layers)
        return Reading(unknown, in_place, copies, beyond, *map(frozenset, every))

    def _loop(self, target: ast.expr, through: ast.expr) -> None:
        """Remember for each name of a loop which parts of the module it goes through."""
        parts = {path for node in ast.walk(through) if (path := path_of(node)) is not None}
        for node in ast.walk(through):
            if isinstance(node, ast.Name):  # entries of what an outer loop goes through
                parts |= {f"{path}.*" for path in self._loops.get(node.id, ())}
        for node in ast.walk(target):
            if isinstance(node, ast.Name) and parts:
                self._loops.setdefault(node.id, set()).update(parts)
                self._targets.add(id(node))

    def _entries_of(self, name: ast.expr) -> set[str]:
        """What a name of a loop stands for, an entry of which is called."""
        if not isinstance(name, ast.Name) or name.id in self._own:
            return set()
        return {f"{path}.*" for path in self._loops.get(name.id, ())}

    def _is_harmless(self, attribute: ast.Attribute) -> bool:
        root = _root(attribute)
        if self._module(root) is not None:  # a `torch.FloatTensor` tells where a tensor is
            return not attribute.attr.endswith("Tensor") or attribute.attr == "Tensor"
        return attribute.attr in _ATTRIBUTES or root == "self"

    def _module(self, name: str | None) -> Any:
        value = None if name is None or name in self._own else self._names.get(name)
        return value if any(value is module for module in _MODULES) else None

    def _called(self, function: ast.expr) -> str | None:
        """The name of what is called; None if it is in no list."""
        if _root(function) == "self" and "self" in self._own:
            return None
        path = path_of(function)
        if path is not None:
            self._parts.add(path)
            return path
        if isinstance(function, ast.Subscript):
            within = path_of(function.value)
            entries = {within} if within is not None else self._entries_of(function.value)
            self._containers |= entries
            return "[]" if entries else None
        if isinstance(function, ast.Name):
            if function.id in self._own:
                return None
            if function.id in self._loops:
                self._containers |= self._loops[function.id]
                return function.id
            known = function.id in _BUILTINS and function.id not in self._names and hasattr(builtins, function.id)
            return function.id if known else None
        if isinstance(function, ast.Attribute):
            root = _root(function)
            module = self._module(root)
            if module is not None:
                listed = module is math or (function.attr in _FUNCTIONS and _is_public(function.value))
                return function.attr if listed else None
            if isinstance(function.value, ast.Call) and _is_super(function.value):
                return function.attr
            of_function = root is None or root in self._own or root in self._loops
            return function.attr if of_function and function.attr in _METHODS else None
        return None


def _may_write(call: ast.Call) -> bool:
    """Whether a function has an argument, by its position, that lets it write in place."""
    if not isinstance(call.func, ast.Attribute) or call.func.attr not in _IN_PLACE_AT or path_of(call.func) is not None:
        return False
    rest = call.args[_IN_PLACE_AT[call.func.attr] :]
    off = all(isinstance(given, ast.Constant) and not given.value for given in rest)
    return not off or any(isinstance(given, ast.Starred) for given in call.args)


def _reaches_beyond(function: ast.FunctionDef, nodes: list[ast.AST]) -> bool:
    attributes = [node for node in nodes if isinstance(node, ast.Attribute)]
    if any(not isinstance(node.ctx, ast.Load) or node.attr in _TRACKED for node in attributes):
        return True
    of_super = (node.attr for node in attributes if isinstance(node.value, ast.Call) and _is_super(node.value))
    if any(hasattr(nn.Module, name) and name not in _OF_MODULE for name in of_super):
        return True
    assigned = [(id(target), node.value) for node in nodes if isinstance(node, ast.Assign) for target in node.targets]
    given = [node for node in nodes if _is_given(node)]
    arguments = {node.arg for node in ast.walk(function.args) if isinstance(node, ast.arg)}

    def only(targets: set[int]) -> set[str]:
        """Return the names that are given nothing else than there."""
        return {name.id for name in given} - {name.id for name in given if id(name) not in targets} - arguments

    lists = only({target for target, value in assigned if _is_new_list(value)})
    computed = only({target for target, value in assigned if isinstance(value, ast.Call | ast.BinOp)}) | {"torch"}
    for node in attributes:
        to = node.value.id if isinstance(node.value, ast.Name) else None
        if (node.attr == "append" and to not in lists) or (node.attr == "add" and to not in computed):
            return True
    return False


def _gives_out_unseen(nodes: list[ast.AST]) -> bool:
    """Whether a set, or what is gone through later, may be given out: nobody sees the images in it."""
    if any(isinstance(node, ast.Set | ast.SetComp) for node in nodes):
        return True
    through = [node.iter for node in nodes if isinstance(node, ast.For | ast.comprehension)]
    for node in nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            through += node.args
        elif isinstance(node, ast.Starred | ast.YieldFrom):
            through.append(node.value)
        elif isinstance(node, ast.Compare):
            through += node.comparators
    seen = set(map(id, through))
    return any(_is_gone_through(node) and id(node) not in seen for node in nodes)


def _is_gone_through(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return isinstance(node, ast.GeneratorExp)
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
    return name in _GOING_THROUGH


def _is_given(node: ast.AST) -> TypeGuard[ast.Name]:
    """Whether it is a name that gets a meaning, or loses it."""
    return isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)


def _is_new_list(value: ast.expr) -> bool:
    called = isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "list"
    return called or isinstance(value, ast.List | ast.ListComp)


def _is_public(module: ast.expr) -> bool:
    """Whether it is a name, or `torch.nn.functional`, and not for example `torch.ops.library`."""
    while isinstance(module, ast.Attribute) and module.attr in ("nn", "functional"):
        module = module.value
    return isinstance(module, ast.Name)


def _is_super(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Name) and call.func.id == "super"


def _root(node: ast.expr) -> str | None:
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None
