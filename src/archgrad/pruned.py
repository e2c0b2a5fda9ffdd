"""The mixture of a row of which some candidates are left, or carry nothing."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from archgrad.choices import AlphaRow, Draw, Mixture
from archgrad.relaxation import Relaxation

__all__ = ["mix_kept", "only", "without"]


def mix_kept(relaxation: Relaxation, alpha: Tensor, row: AlphaRow, draw: Draw, left: Sequence[int]) -> Mixture:
    """Return the mixture of the candidates that are left, with weight zero for the others.

    Args:
        relaxation: Mixes a row of the candidates that are left.
        alpha: (K,), of all candidates.
        row: Of all candidates.
        draw: Of the row of those that are left.
        left: Their numbers, ascending; at least as many as are chosen.
    """
    mixture = relaxation.mix(only(alpha, left), row.only(left), draw)
    nothing = mixture.slots.new_zeros(mixture.slots.shape[0])
    columns = dict(zip(left, mixture.slots.unbind(1), strict=True))
    slots = torch.stack([columns.get(k, nothing) for k in range(len(row.names))], 1)
    return Mixture(slots, tuple(left[k] for k in mixture.active), mixture.straight_through)


def without(mixture: Mixture, off: Collection[int]) -> Mixture:
    """Return the mixture with weight zero for some candidates; the weights of the others stay as they are.

    Args:
        mixture: Of a row.
        off: Numbers of the candidates.
    """
    nothing = mixture.slots.new_zeros(mixture.slots.shape[0])
    columns = [nothing if k in off else column for k, column in enumerate(mixture.slots.unbind(1))]
    return replace(mixture, slots=torch.stack(columns, 1))


def only(alpha: Tensor, left: Sequence[int]) -> Tensor:
    """Return the alphas of the candidates that are left; unlike an index, it reads nothing from the CPU."""
    return torch.stack([alpha[k] for k in left])
