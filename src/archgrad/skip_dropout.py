"""Dropout after the identities among the candidates, so that they do not win because gradients pass them easily.

Source: Chen et al. 2019, Progressive DARTS, section 3.3.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from archgrad.choices import LayerChoice
from archgrad.exactness import kind_of

__all__ = ["SkipDropout", "add_skip_dropout", "identities", "set_skip_dropout", "take_off_skip_dropout"]


class SkipDropout(nn.Module):
    """An identity that in training mode zeros values with a probability and scales the others to make up for it."""

    keep: Tensor
    """0-dimensional: the probability that a value stays. A tensor, so that a recorded pass reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("keep", torch.ones(()), persistent=False)

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        return f"keep={float(self.keep):g}"

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` of any shape, with values dropped."""
        if not self.training:
            return x
        # A mask in the order of the shape and not of the memory, so that it is the same in every memory format.
        stays = torch.rand(x.shape, device=x.device, dtype=self.keep.dtype) < self.keep
        return x * stays / self.keep.to(x.dtype)


def identities(network: nn.Module) -> Iterator[tuple[LayerChoice, int]]:
    """Yield the candidates that are identities, or have been: their choice and their number in it."""
    for choice in network.modules():
        if isinstance(choice, LayerChoice):
            for k, candidate in enumerate(choice.candidates):
                if kind_of(candidate) in (nn.Identity, SkipDropout):
                    yield choice, k


def add_skip_dropout(network: nn.Module) -> None:
    """Put a `SkipDropout` that drops nothing in the place of each candidate that is an identity."""
    for choice, k in list(identities(network)):
        choice.candidates[k] = SkipDropout().train(choice.candidates[k].training)


def take_off_skip_dropout(network: nn.Module) -> None:
    """Put an identity back in the place of each candidate that is a `SkipDropout`."""
    for choice, k in list(identities(network)):
        if isinstance(choice.candidates[k], SkipDropout):
            choice.candidates[k] = nn.Identity().train(choice.candidates[k].training)


@torch.no_grad()
def set_skip_dropout(network: nn.Module, rate: float) -> None:
    """Set the rate of every `SkipDropout`, from 0 to below 1."""
    for module in network.modules():
        if isinstance(module, SkipDropout):
            module.keep.fill_(1.0 - rate)
