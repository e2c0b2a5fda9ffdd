"""Passes through a network that leave it, and all random numbers, as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from archgrad.buffers import kept_buffers
from archgrad.data.seeds import kept_randomness

__all__ = ["no_trace"]


@contextmanager
def no_trace(network: nn.Module, device: torch.device, generator: torch.Generator | None = None) -> Iterator[None]:
    """Leave buffers and random states as they were, whatever passes run inside.

    Args:
        network: Its buffers, those too that it registers only inside, and those that it puts in the place of others.
        device: Where it computes.
        generator: One more source of random numbers, besides the global ones.
    """
    state = None if generator is None else generator.get_state()
    registered = [(module, set(module._buffers)) for module in network.modules()]
    cuda = [device] if device.type == "cuda" else []
    try:
        with kept_randomness(), torch.random.fork_rng(cuda), kept_buffers(network.modules()):
            yield
    finally:
        if generator is not None and state is not None:
            generator.set_state(state)
        for module, names in registered:
            for name in module._buffers.keys() - names:
                del module._buffers[name]
