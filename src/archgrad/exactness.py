"""Whether a module computes exactly what its class says, so that a shortcut may be taken in its place.

A shortcut reads a module's settings and weights and never calls it. What a call would do besides is then lost: hooks, a
`forward` of the instance, a parametrization (which is a class of its own), a method of the class that was replaced, or
somebody who watches all calls. Each of them makes a module run as it is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn.modules import module as torch_module
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext

__all__ = [
    "HOOKS",
    "as_defined",
    "as_named",
    "calls_are_watched",
    "computes_by",
    "is_exactly",
    "is_exactly_but_hooked",
    "is_hooked",
    "kind_of",
    "methods_in_place",
    "names_in_place",
]

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
"""The tables of a module that calling it reads."""
_GLOBAL_HOOKS = (
    torch_module._global_forward_hooks,
    torch_module._global_forward_pre_hooks,
    torch_module._global_backward_hooks,
    torch_module._global_backward_pre_hooks,
)
_METHODS = ("forward", "__call__", "_conv_forward", "_check_input_dim")
_DEFINED: dict[type[nn.Module], tuple[object, ...]] = {}
"""What stood in a class when it was first seen here."""
_NAMES: dict[type[nn.Module], frozenset[str]] = {}
"""What a class defines; an instance that defines one of these itself overrides it."""

_NAMED: dict[tuple[int, str], tuple[Mapping[str, Any], Any]] = {}
"""Tables of names, and what a name in them was."""


def as_defined(*kinds: type[nn.Module]) -> tuple[type[nn.Module], ...]:
    """Note how classes are defined at present, so that a later change of their methods is seen; return them."""
    for kind in kinds:
        if kind not in _DEFINED:
            _DEFINED[kind] = _methods(kind)
            _NAMES[kind] = frozenset(dir(kind))
    return kinds


def as_named(names: Mapping[str, Any], name: str) -> None:
    """Note what a name of a person's code means, so that `methods_in_place` sees when it means something else."""
    _NAMED.setdefault((id(names), name), (names, names[name]))


def methods_in_place() -> bool:
    """Return whether no class that `as_defined` noted has changed, and no name that `as_named` did."""
    return all(_methods(kind) == methods for kind, methods in _DEFINED.items()) and names_in_place()


def names_in_place() -> bool:
    """Return whether no name that `as_named` noted has come to mean something else."""
    return all(names.get(name) is value for (_, name), (names, value) in _NAMED.items())


def kind_of(module: nn.Module) -> type[nn.Module]:
    """Return the module's class; of one whose class a fast path exchanged, the one from before."""
    kind = type(module)
    return kind.__dict__.get("turned_from", kind)


def computes_by(kind: type[nn.Module], base: type[nn.Module]) -> bool:
    """Return whether a class is called, and finds its parts, as `base` does; of a Sequential also what it computes."""
    own = ("forward", "__iter__") if base is nn.Sequential else ()
    names = ("__call__", "_wrapped_call_impl", "_call_impl", "__getattr__", "__getattribute__", *own)
    return issubclass(kind, base) and all(getattr(kind, name, None) is getattr(base, name, None) for name in names)


def is_hooked(module: nn.Module) -> bool:
    """Return whether calling the module runs hooks of its own."""
    return any(module.__dict__[name] for name in HOOKS)


def is_exactly(module: object, *kinds: type[nn.Module]) -> bool:
    """Return whether the module is of one of these classes itself, and calling it runs only the class's `forward`.

    Args:
        module: What may be one.
        kinds: Classes that `as_defined` noted.
    """
    return is_exactly_but_hooked(module, *kinds) and not is_hooked(module)


def is_exactly_but_hooked(module: object, *kinds: type[nn.Module]) -> TypeGuard[nn.Module]:
    """As `is_exactly`, but calling the module may run hooks, for which the caller answers."""
    if not isinstance(module, nn.Module) or (kind := kind_of(module)) not in kinds:
        return False
    return _NAMES[kind].isdisjoint(module.__dict__) and _methods(kind) == _DEFINED[kind]


def calls_are_watched() -> bool:
    """Return whether something in this process wants to see every module or operation as it is written.

    That is: a global module hook; a transform of `torch.func` or forward-mode differentiation, which the functions of a
    fast path have no rules for; a compiler, exporter or tracer; a mode that intercepts functions.
    """
    return (
        any(_GLOBAL_HOOKS)
        or torch._C._functorch.peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or any(not isinstance(mode, DeviceContext) for mode in _get_current_function_mode_stack())
    )


def _methods(kind: type[nn.Module]) -> tuple[object, ...]:
    return tuple(getattr(kind, name, None) for name in _METHODS)
