"""A network that goes on as a larger one: weights and what belongs to them are copied, new channels from old ones.

Source: Chen et al. 2021, DrNAS, section 4 (progressive architecture learning). They draw new channels layer by layer;
here all sizes that grow alike draw once, so that a layer and the one that reads it agree on what was copied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from archgrad.bilevel.weights_pass import memory_name
from archgrad.errors import OptionError
from archgrad.regularizers import Regularizer
from archgrad.supernet import Supernet
from archgrad.weights_rules import WeightsRule

__all__ = ["StageState", "check_widening", "widen"]


class StageState(NamedTuple):
    """The supernet of a stage, and what moves its weights and alphas."""

    supernet: Supernet
    weights_optimizer: Optimizer
    alphas_optimizer: Optimizer
    regularizers: tuple[Regularizer, ...] = ()
    """Those of the method, for this supernet."""


def check_widening(small: nn.Module, large: nn.Module) -> None:
    """Check that what both networks have is nowhere smaller in the second.

    Raises:
        OptionError: It is.
    """
    before = small.state_dict()
    for name, tensor in large.state_dict().items():
        old = before.get(name, tensor).shape
        if len(old) != tensor.dim() or any(n < m for m, n in zip(old, tensor.shape, strict=True)):
            raise OptionError(
                f"A stage of the method widens the network before it, but '{name}' has the shape {tuple(old)} there "
                f"and {tuple(tensor.shape)} in the stage. Let sizes grow, or leave widen out."
            )


@torch.no_grad()
def widen(small: StageState, large: StageState, *, seed: int, rules: Sequence[WeightsRule] = ()) -> None:
    """Bring a network to where a smaller one has come: weights, alphas, running statistics, momentum, random draws.

    What rules of the weights' gradient remember goes on, too.

    Layers that the smaller one does not have stay at their first weights.

    Args:
        small: As trained.
        large: Of the same rows; changed in place.
        seed: Of which old channels become the new ones.
        rules: Those of the weights' gradient, in their order.
    """
    channels = _Channels(seed)
    before, after = small.supernet.network.state_dict(), large.supernet.network.state_dict()
    for name, tensor in after.items():
        if name in before:
            tensor.copy_(channels.grown(before[name], tensor.shape))
    large.supernet.alphas.load_state_dict(small.supernet.alphas.state_dict())
    large.supernet.generator.set_state(small.supernet.generator.get_state())
    large.supernet.kept = dict(small.supernet.kept)
    for place, rule in enumerate(rules):
        if (memory := small.supernet.memory.get(name := memory_name(place, rule))) is not None:
            owners = small.supernet.owners, large.supernet.owners
            large.supernet.memory[name] = dict(rule.widened(memory, *owners))
    large.alphas_optimizer.load_state_dict(small.alphas_optimizer.state_dict())
    weights = small.supernet.weights
    for name, weight in large.supernet.weights.items():
        state: Mapping[str, Any] = small.weights_optimizer.state.get(weights[name], {}) if name in weights else {}
        if state:
            like = weights[name].shape
            large.weights_optimizer.state[weight] = {
                key: channels.grown(value, weight.shape) if isinstance(value, Tensor) and value.shape == like else value
                for key, value in state.items()
            }
    for old, new in zip(small.weights_optimizer.param_groups, large.weights_optimizer.param_groups, strict=True):
        new.update({key: value for key, value in old.items() if key != "params"})


class _Channels:
    """Which old channel each channel is copied from."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._sources: dict[tuple[int, int], Tensor] = {}

    def grown(self, tensor: Tensor, shape: torch.Size) -> Tensor:
        """Return a copy of a tensor in which each axis has its new size."""
        for axis, (old, new) in enumerate(zip(tensor.shape, shape, strict=True)):
            if old != new:
                tensor = tensor.index_select(axis, self._source(old, new).to(tensor.device))
        return tensor.clone()

    def _source(self, old: int, new: int) -> Tensor:
        """Return (new,): every old channel, then some of them again."""
        if (old, new) not in self._sources:
            more = torch.randint(old, (new - old,), generator=self._generator)
            self._sources[old, new] = torch.cat([torch.arange(old), more])
        return self._sources[old, new]
