"""The noise of skip connections, as the hook that adds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from archgrad.exactness import HOOKS
from archgrad.nested import map_tensors

__all__ = ["AddedNoise", "noise_of"]


@dataclass(frozen=True)
class AddedNoise:
    """A forward hook that adds N(0, (factor std(x))^2) to every tensor x of a module's output, in training mode.

    std(x) is that of all entries, a constant to the gradient.
    """

    factor: float
    """At least 0."""

    def __call__(self, module: nn.Module, _: Any, output: Any) -> Any:
        """Return the output with noise."""
        return map_tensors(output, lambda x: x + self.of(x)) if module.training else output

    def of(self, x: Tensor) -> Tensor:
        """Return the noise of a tensor."""
        # In the order of the shape and not of the memory, so that the noise is the same in every memory format.
        noise = torch.randn(x.shape, device=x.device, dtype=x.dtype)
        return noise.mul_(self.factor * x.detach().std())


def noise_of(module: nn.Module) -> AddedNoise | None:
    """Return the noise that calling the module adds, if that is its only hook; else None."""
    table = module._forward_hooks
    if len(table) != 1 or any(module.__dict__[name] for name in HOOKS if name != "_forward_hooks"):
        return None
    (hook,) = table.values()
    return hook if type(hook) is AddedNoise else None
