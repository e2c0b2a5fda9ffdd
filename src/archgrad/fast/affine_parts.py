"""Weights and biases of BatchNorms, as a program takes them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from archgrad.fast import native

__all__ = ["affine_parts"]


def affine_parts(
    program: native.Program, norms: Sequence[nn.BatchNorm2d], mixing: Sequence[Tensor]
) -> list[native.Affine]:
    """Return what BatchNorms do behind normalising, times the mixing weight in a sum; nothing if no norm has weights.

    Args:
        program: What is computed.
        norms: Of its units with one, in their order, of as many channels each.
        mixing: Its mixing weights, in one tensor or in one for each step that sums.
    """
    weight = next((norm.weight for norm in norms if norm.affine), None)
    if weight is None:
        return []
    neither = torch.ones_like(weight), torch.zeros_like(weight)
    pairs = [(norm.weight, norm.bias) if norm.affine else neither for norm in norms]
    found: list[native.Affine] = []
    of_sums = iter(mixing)
    for step, share in zip(program.steps, program.shares, strict=True):
        if not isinstance(step, native.Step):
            continue
        own = pairs[share.norms]
        if not step.plan.summed:
            found += [native.Affine(*pair) for pair in own]
            continue
        factors = mixing[0][share.terms] if len(mixing) == 1 else next(of_sums)[: len(own)]
        if own:
            scales, shifts = (torch.stack(part) * factors.unsqueeze(1) for part in zip(*own, strict=True))
            found.append(native.Affine(scales, shifts))
    return found
