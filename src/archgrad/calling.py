"""How a network is called with a batch of several tensors: as one argument, or each part as an argument of its own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from archgrad.nested import is_structure

__all__ = ["arguments_for", "run_on", "takes_parts"]


def run_on(network: Callable[..., Any], inputs: Any) -> Any:
    """Return what a network, or a function, makes of a batch."""
    args, kwargs = arguments_for(network, inputs)
    return network(*args, **kwargs)


def arguments_for(network: Callable[..., Any], inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments, in order and by name, with which a network is called: the batch as it is, or its parts."""
    if not takes_parts(network, inputs):
        return (inputs,), {}
    return ((), dict(inputs)) if isinstance(inputs, Mapping) else (tuple(inputs), {})


def takes_parts(network: Callable[..., Any], inputs: Any) -> bool:
    """Return whether a network requires several arguments, which are then the parts of a batch that is a structure.

    Arguments with a default, and those of `*args` and `**kwargs`, are not required.
    """
    if not is_structure(inputs):
        return False
    function = network.forward if isinstance(network, nn.Module) else network
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return sum(each.default is each.empty and each.kind not in several for each in parameters) > 1
