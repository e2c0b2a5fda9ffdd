"""A layer choice by itself between inverted residuals, which the compiled kernels add up as one function."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from archgrad.choices import Mixture
from archgrad.fast import native
from archgrad.fast.branches import Branch
from archgrad.fast.inverted_residuals import InvertedResiduals, suits
from archgrad.fast.lowering import Candidate, Layout, OneEdge, beside, offset_of
from archgrad.fast.unchanged import StructureCache

__all__ = ["evaluate"]


def evaluate(
    cell: OneEdge, x: Tensor, mixture: Mixture, layout: Layout, kept: StructureCache, kind: Hashable
) -> Tensor | None:
    """Return what the choice's plain forward pass returns; None where no inverted residual runs that the kernels take.

    Args:
        cell: The choice.
        x: (B, C, H, W).
        mixture: Of the choice.
        layout: Of this pass.
        kept: Keeps which candidates the kernels compute.
        kind: What that depends on beside the choice.
    """
    ((edge,),) = layout.entering
    parted = kept.find(("inverted", kind), lambda: _part(edge.candidates, x.shape))
    weights = mixture.weights
    if parted is None or not parted.residuals.take(x, weights):
        return None
    values: list[Tensor] = []
    mixing = [weights[list(parted.adding)].sum()] if parted.adding else []
    extra: list[Tensor] = offset_of(edge, mixture)
    for candidate in parted.others:
        value, weight = beside(cell, edge, candidate, x), weights[candidate.place]
        if native.takes(x, value):
            values.append(value)
            mixing.append(weight)
        else:
            extra.append(weight * value)
    y = parted.residuals.blend(
        x,
        weights[list(parted.places)],
        values,
        torch.stack(mixing) if mixing else None,
        keeps_input=bool(parted.adding),
    )
    for more in extra:
        y = y + more
    return y


class _Parted(NamedTuple):
    """The candidates that run, by how they are computed."""

    residuals: InvertedResiduals
    places: tuple[int, ...]
    """Of the inverted residuals, among all candidates."""
    adding: tuple[int, ...]
    """Of those to which the input is added, and of those that are nothing else."""
    others: tuple[Candidate, ...]
    """What is called."""


def _part(candidates: Sequence[Candidate], shape: Sequence[int]) -> _Parted | None:
    branches: list[Branch] = []
    places, adding, others = [], [], []
    for candidate in candidates:
        branch = candidate.branch
        if branch is not None and suits(branch, shape):
            branches.append(branch)
            places.append(candidate.place)
            if branch.is_residual:
                adding.append(candidate.place)
        elif branch is not None and branch.form == "identity":
            adding.append(candidate.place)
        elif branch is None or branch.form != "zero":
            others.append(candidate)
    if not branches:
        return None
    return _Parted(InvertedResiduals(branches), tuple(places), tuple(adding), tuple(others))
