"""The optimizer of the weights: an instance that was built over the model, or something that makes one."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.optim import Optimizer

from archgrad.bilevel import BilevelStep
from archgrad.errors import OptionError
from archgrad.search.optimizers import optimizer_for_weights
from archgrad.supernet import Supernet

__all__ = ["DEFAULT_LEARNING_RATE", "OptimizerMaker", "describe_optimizer", "take_optimizer"]

DEFAULT_LEARNING_RATE = 0.0025
"""NNI's; it also means that none was asked for."""

_OPTIONS = {"learning_rate": "lr", "momentum": "momentum", "weight_decay": "weight_decay"}
"""Options of a search -> what optimizers call them."""

OptimizerMaker: TypeAlias = Callable[..., Optimizer]
"""An optimizer class, or whatever else is called as `make(parameters, lr=learning_rate)`."""


def take_optimizer(
    supernet: Supernet,
    model: nn.Module,
    given: Optimizer | OptimizerMaker,
    *,
    learning_rate: float,
    step: BilevelStep,
    scheduled: bool,
) -> Optimizer:
    """Return the optimizer of the supernet's weights.

    Args:
        supernet: On its device.
        model: What the supernet was made of.
        given: An optimizer over parameters of `model`, which is moved to the supernet's; or what makes one.
        learning_rate: For the one that is made; an instance has its own.
        step: Must know the optimizer's look-ahead.
        scheduled: Whether the search sets the learning rate of each epoch.

    Raises:
        OptionError: It is no optimizer, holds foreign parameters, or does not go with the other arguments.
    """
    if isinstance(given, Optimizer):
        optimizer = given
        rates = [float(group[key]) for group in given.param_groups for key in ("lr", "initial_lr") if key in group]
        if scheduled and any("initial_lr" in group for group in given.param_groups):
            raise OptionError(
                "schedule='cosine' does not go with an optimizer that has a learning-rate scheduler of its own. "
                "Leave one of them out."
            )
    else:
        optimizer, rates = _make(given, list(supernet.weights.values()), learning_rate)
    if learning_rate != DEFAULT_LEARNING_RATE and learning_rate not in rates:
        own = " and ".join(dict.fromkeys(map(str, rates))) or "none"
        raise OptionError(
            f"learning_rate={learning_rate} is not the optimizer's own learning rate, which is {own} and holds. "
            f"Leave learning_rate out, or build the optimizer with lr={learning_rate}."
        )
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise OptionError(
            f"optimizer must step without a closure, but {type(optimizer).__name__} needs one. Use for example SGD."
        )
    step.check(optimizer)
    return optimizer_for_weights(
        supernet, model, optimizer, learning_rate=learning_rate, momentum=0.0, weight_decay=0.0
    )


def _make(make: OptimizerMaker, weights: list[nn.Parameter], learning_rate: float) -> tuple[Optimizer, list[float]]:
    """Return an optimizer over the weights, and the learning rates that count as its own."""
    examples = "torch.optim.SGD, or functools.partial(torch.optim.SGD, momentum=0.9)"
    if not callable(make):
        raise OptionError(
            f"optimizer must be a torch optimizer over model.parameters(), or a class or function that makes one, "
            f"but got {type(make).__name__}. Give for example {examples}."
        )
    fixed = make.keywords if isinstance(make, functools.partial) else {}
    options = {} if "lr" in fixed else {"lr": learning_rate}
    try:
        inspect.signature(make).bind(weights, **options)
    except TypeError as error:
        raise OptionError(
            f"optimizer must be callable as optimizer(parameters, lr=learning_rate), but {make!r} is not ({error}). "
            f"Give for example {examples}."
        ) from error
    optimizer = make(weights, **options)
    if not isinstance(optimizer, Optimizer):
        raise OptionError(
            f"optimizer must make a torch optimizer, but {make!r} returned {type(optimizer).__name__}. "
            f"Give for example {examples}."
        )
    return optimizer, [float(fixed.get("lr", learning_rate))]


def describe_optimizer(optimizer: Optimizer) -> dict[str, Any]:
    """Return what the optimizer decides as plain data, for a run's config."""
    groups = [
        {key: _plain(value) for key, value in group.items() if key != "params"} for group in optimizer.param_groups
    ]
    first = {option: groups[0].get(key) for option, key in _OPTIONS.items()}
    return {**first, "optimizer": {"name": type(optimizer).__name__, "groups": groups}}


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else repr(value)
