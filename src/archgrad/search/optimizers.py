"""The optimizer of the weights and its learning rate in an epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

from torch import nn
from torch.optim import SGD, Optimizer

from archgrad.errors import OptionError, SpaceError
from archgrad.schedules import Cosine, Progress
from archgrad.supernet import Supernet

__all__ = ["OptimizerFactory", "cosine", "optimizer_for_weights", "set_learning_rate"]

OptimizerFactory: TypeAlias = Callable[[Iterable[nn.Parameter]], Optimizer]


def cosine(epoch: int, epochs: int, *, first: float, last: float) -> float:
    """Return the learning rate of epoch `epoch` (0-based): `first` at 0, and `last` would be reached at `epochs`."""
    return Cosine(first, last).value(Progress(epoch, epochs))


def set_learning_rate(optimizer: Optimizer, progress: Progress, *, last: float, share: float = 1.0) -> float:
    """Set every group's learning rate to the cosine schedule from a share of its own first value; return the first."""
    for group in optimizer.param_groups:
        first = share * group.setdefault("initial_lr", group["lr"])
        group["lr"] = cosine(progress.epoch, progress.epochs, first=first, last=min(last, first))
    return float(optimizer.param_groups[0]["lr"])


def optimizer_for_weights(
    supernet: Supernet,
    space: nn.Module,
    given: Optimizer | OptimizerFactory | None,
    *,
    learning_rate: float,
    momentum: float,
    weight_decay: float,
) -> Optimizer:
    """Return the weights' optimizer: SGD, what a factory makes, or an instance over the space's parameters, moved over.

    Args:
        supernet: On its device.
        space: The space that the supernet was made of.
        given: None for SGD; a function of the weights; or an optimizer over parameters of `space`, whose groups then
            hold the supernet's copies of them, with options and state kept.
        learning_rate: Of the SGD.
        momentum: Of the SGD.
        weight_decay: Of the SGD.

    Raises:
        SpaceError: The space has no weights.
        OptionError: The optimizer holds a parameter that is not the space's.
    """
    if not supernet.weights:
        raise SpaceError(
            f"A search trains the weights of a space, but {type(supernet.network).__name__} has no parameter that "
            f"requires a gradient. Put a layer with weights in it, or thaw them with requires_grad_()."
        )
    if given is None:
        return SGD(list(supernet.weights.values()), learning_rate, momentum=momentum, weight_decay=weight_decay)
    if not isinstance(given, Optimizer):
        return given(list(supernet.weights.values()))
    copies = {
        id(parameter): supernet.network.get_parameter(name)
        for name, parameter in space.named_parameters(remove_duplicate=False)
    }
    own = {id(weight) for weight in supernet.weights.values()}
    groups = [group["params"] for group in given.param_groups]
    if all(id(parameter) in own for group in groups for parameter in group):
        return given
    if strangers := [p for group in groups for p in group if id(p) not in copies]:
        raise OptionError(
            f"The optimizer holds {len(strangers)} parameters that are not the model's, the first of shape "
            f"{tuple(strangers[0].shape)}. Build it over model.parameters() of the model that is searched."
        )
    state = given.state_dict()
    for group in given.param_groups:
        group["params"] = [copies[id(parameter)] for parameter in group["params"]]
    given.state.clear()
    given.load_state_dict(state)  # brings the state to the supernet's device
    of_space = {id(copy) for copy in copies.values()}  # what always runs stands in the supernet alone
    given.param_groups[0]["params"] += [w for w in supernet.weights.values() if id(w) not in of_space]
    return given
