"""Noise on skip connections while a supernet learns, so that they do not win because gradients pass them easily.

Source: Chu et al. 2020, NoisyDARTS: unbiased Gaussian noise, on the skip connections of the supernet alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from torch import nn

from archgrad.added_noise import AddedNoise
from archgrad.choices import LayerChoice
from archgrad.errors import OptionError
from archgrad.operations import is_skip
from archgrad.supernet import Supernet

__all__ = ["noisy_skips", "take_off_noise"]


@contextmanager
def noisy_skips(supernet: Supernet, factor: float) -> Iterator[None]:
    """Let skip connections among the candidates give x + N(0, (factor std(x))^2) in training mode, in every pass.

    std(x) is that of all entries of the output, a constant to the gradient. (For a skip connection that is no identity,
    on an edge of stride 2, that is where the authors' code has the noise; it is all the same for an identity.) The
    global random numbers are used, so that passes that see the same dropout masks see the same noise.

    Args:
        supernet: At the end it is as it was.
        factor: At least 0; the authors take 0.2.

    Raises:
        OptionError: No candidate is a skip connection by its name.
    """
    skips = [
        choice[name]
        for choice in supernet.network.modules()
        if isinstance(choice, LayerChoice)
        for name in choice
        if is_skip(name)
    ]
    if factor > 0.0 and not skips:
        raise OptionError(
            "skip_noise needs a candidate that is called 'skip...', but this space has none. Leave it out."
        )

    with ExitStack() as stack:
        for skip in skips if factor > 0.0 else ():
            stack.callback(skip.register_forward_hook(AddedNoise(factor)).remove)
        yield


def take_off_noise(network: nn.Module) -> None:
    """Take what `noisy_skips` put on a network off a copy of it."""
    for module in network.modules():
        for key, hook in list(module._forward_hooks.items()):
            if isinstance(hook, AddedNoise):
                del module._forward_hooks[key]
