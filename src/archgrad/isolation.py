"""Candidates that change their input in place, beside others that read the same input.

`nn.ReLU(inplace=True)` saves memory where it alone reads its input. A candidate of a choice, or an operation of a cell,
does not: what it writes, the others would read. Each must compute what it would on a copy of its own.

Modules that have a part with `inplace=True` get a copy, unless the part turns out to work further inside. All others
read the input itself, and it is checked by tensors' version counters, which cost nothing, that none has written to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd

from archgrad.errors import SpaceError
from archgrad.nested import map_tensors, tensors_in

__all__ = ["NEW", "has_in_place", "is_in_place", "run_isolated", "write_anew"]

_spares_input: WeakKeyDictionary[nn.Module, set[tuple[bool, tuple[int, ...]]]] = WeakKeyDictionary()
"""The values of `training`, with the numbers of the parts that worked in place, for which a module was seen to leave
its input as it was."""


def run_isolated(module: nn.Module, *args: Any, where: Callable[[], str] | None = None, **kwargs: Any) -> Any:
    """Return `module(*args, **kwargs)`, and leave what it is given as it was.

    Args:
        module: A candidate, or what has been made of one.
        args: Tensors, or tuples, lists and dicts with tensors in them.
        where: Says for an error message what the module is.
        kwargs: As `args`.

    Raises:
        SpaceError: The module has changed its input without having a part that says `inplace=True`, or did not before.
    """
    in_place = tuple(k for k, part in enumerate(module.modules()) if is_in_place(part))
    own = bool(in_place) and (module.training, in_place) not in _spares_input.get(module, ())
    if own:
        args, kwargs = map_tensors((args, kwargs), Tensor.clone)
    given = args if len(args) == 1 and type(args[0]) is Tensor and not kwargs else list(tensors_in((args, kwargs)))
    before = [_version(x) for x in given]
    output = module(*args, **kwargs)
    changed = before != [_version(x) for x in given]
    if own:
        if not changed and None not in before and not any(isinstance(part, _DropoutNd) for part in module.modules()):
            _spares_input.setdefault(module, set()).add((module.training, in_place))
    elif changed:
        name = type(module).__name__ if where is None else f"{where()} ({type(module).__name__})"
        raise SpaceError(
            f"{name} changes its input in place, where others read the same input. Let it compute something new "
            f"(x = x + y in the place of x += y, torch.relu(x) in the place of x.relu_()), or let it begin with "
            f"x = x.clone(). A module with an attribute inplace=True is given a copy without more."
        )
    return output


def _version(x: Tensor) -> int | None:
    return None if x.is_inference() else x._version  # an inference tensor has none


def has_in_place(module: nn.Module) -> bool:
    """Return whether any part of a module works in place, as far as its attribute `inplace` says."""
    return any(map(is_in_place, module.modules()))


def is_in_place(module: nn.Module) -> bool:
    """Return whether a module itself works in place, as far as its attribute `inplace` says."""
    return getattr(module, "inplace", False) is True


NEW = (_ConvNd, nn.Linear, _NormBase, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d)
"""Layers that return a tensor of their own; after one of them, working in place is nobody else's concern."""


def write_anew(module: nn.Module) -> None:
    """Switch `inplace` off in the parts of a module that may see its input; what it computes stays the same.

    Args:
        module: Changed in place. In a sequence these are the parts up to the first layer of weights or pool, in a
            module with a forward of its own all of them.
    """
    _write_anew(module)


def _write_anew(module: nn.Module) -> bool:
    """Return whether what follows the module in a sequence sees a tensor of the module's own."""
    if isinstance(module, NEW):
        return True
    if type(module) is nn.Sequential:
        return any(_write_anew(part) for part in module)
    for part in module.modules():
        if is_in_place(part):
            part.inplace = False  # type: ignore[assignment]
    return False
