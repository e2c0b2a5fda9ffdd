"""Narrow operations of several edges side by side, so that they fill a vector of the compiled kernels.

The kernels work on whole vectors of channels. Where operations have fewer channels than that, as partial channels make
them, those of one kind that leave a state for several nodes are computed as one: the state side by side with itself,
the depthwise kernels one after the other, the pointwise ones as the blocks of one matrix. BatchNorm is by channel, and
so are the mixing weights, which differ from edge to edge.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from archgrad.distributed.sync_batchnorm import is_synchronised
from archgrad.fast.batch_norms import track, uses_batch
from archgrad.fast.branches import Branch
from archgrad.fast.depthwise import Geometry
from archgrad.fast.group_key import settings_of
from archgrad.fast.lowering import Candidate
from archgrad.fast.pointwise import Convolution, Moments, Term, blend, project_each, suits_kernels
from archgrad.fast.recognise import matrix

__all__ = ["NOTHING", "Packed", "pack"]

_LANES = 16
"""Channels that the widest vectors hold in single precision."""


class Packed(NamedTuple):
    """What several edges that leave a state get at once."""

    sums: dict[int, Tensor]
    """By the number of the edge: the sum of what its candidates in `done` give, times their mixing weights."""
    done: frozenset[int]
    """Numbers of these candidates (`Candidate.number`)."""


NOTHING = Packed({}, frozenset())


def pack(x: Tensor, leaving: Sequence[Candidate], weights: Sequence[Sequence[Tensor]]) -> Packed:
    """Return what the narrow convolutions that leave a state give to its edges; nothing where this is not the way.

    Args:
        x: The state, (B, C, H, W), channels_last.
        leaving: The known candidates that read it.
        weights: Mixing weights of every candidate of every edge.
    """
    at_once = _LANES // x.shape[1]
    by_edge: dict[int, list[Candidate]] = {}
    for candidate in leaving:
        if at_once > 1 and _suits(candidate.branch):
            by_edge.setdefault(candidate.edge, []).append(candidate)
    edges = list(by_edge.values())
    if len({tuple((c.place, settings_of(_branch(c))) for c in edge) for edge in edges}) != 1 or len(edges) < 2:
        return NOTHING
    sums: dict[int, Tensor] = {}
    done: set[int] = set()
    for first in range(0, len(edges), at_once):
        pack = edges[first : first + at_once]
        total = _total(x, list(zip(*pack, strict=True)), weights) if len(pack) > 1 else None
        if total is None:
            continue
        sums |= zip((edge[0].edge for edge in pack), total.split(total.shape[1] // len(pack), 1), strict=True)
        done |= {c.number for edge in pack for c in edge}
    return Packed(sums, frozenset(done))


def _suits(branch: Branch | None) -> bool:
    """Whether it is a sequence of projections with BatchNorms of the batch alone, without affine part."""
    if branch is None or not branch.is_projection or branch.form == "reduction":
        return False
    norms = [layer for layer in branch.layers if isinstance(layer, nn.BatchNorm2d)]
    square = all(layer.in_channels == layer.out_channels for layer in branch.layers if isinstance(layer, nn.Conv2d))
    return square and all(uses_batch(norm) and not norm.affine and not is_synchronised(norm) for norm in norms)


def _total(x: Tensor, kinds: list[tuple[Candidate, ...]], weights: Sequence[Sequence[Tensor]]) -> Tensor | None:
    """The sum over kinds, the edges side by side; None if the kernels do not compute it."""
    edges = len(kinds[0])
    wide = torch.cat([x.permute(0, 2, 3, 1)] * edges, 3).permute(0, 3, 1, 2)
    layers = [list(zip(*(_branch(c).layers for c in kind), strict=True)) for kind in kinds]
    twice = [_branch(kind[0]).form == "separable" for kind in kinds]
    firsts = {k: _term(wide, stages[1:3], relu=True) for k, stages in enumerate(layers) if twice[k]}
    last = {k: _term(wide, stages[1:-1], relu=True) for k, stages in enumerate(layers) if not twice[k]}
    eps = {norm.eps for stages in layers for layer in stages for norm in layer if isinstance(norm, nn.BatchNorm2d)}
    if len(eps) != 1 or not suits_kernels([*firsts.values(), *last.values()], x):
        return None
    (epsilon,) = eps
    if firsts:
        ones = x.new_ones(len(firsts), wide.shape[1])
        halves, moments = project_each(list(firsts.values()), ones, eps=epsilon, relu=True)
        _track([layers[k][3] for k in firsts], moments)
        last |= {k: _term(y, layers[k][5:7], relu=False) for k, y in zip(firsts, halves, strict=True)}
    order = sorted(last)
    mixing = torch.stack([weights[c.edge][c.place] for k in order for c in kinds[k]]).view(len(order), edges, 1)
    scale = mixing.expand(-1, -1, x.shape[1]).flatten(1)
    total, moments = blend([last[k] for k in order], scale, eps=epsilon)
    _track([layers[k][-1] for k in order], moments)
    return total


def _branch(candidate: Candidate) -> Branch:
    return cast(Branch, candidate.branch)


def _term(x: Tensor, stages: Sequence[Sequence[nn.Module]], *, relu: bool) -> Term:
    """The term of a depthwise, if there are two stages, and a pointwise convolution of every edge."""
    *before, pointwise = cast("Sequence[Sequence[nn.Conv2d]]", stages)
    convolution = None
    if before:
        weight = torch.cat([layer.weight for layer in before[0]])
        convolution = Convolution(weight, cast(Geometry, Geometry.of(before[0][0])))
    return Term(x, torch.block_diag(*map(matrix, pointwise)), convolution, relu=relu)


def _track(norms: Sequence[Sequence[nn.Module]], moments: Moments) -> None:
    every = [cast(nn.BatchNorm2d, norm) for group in norms for norm in group]
    rows = (len(every), -1)
    track(every, moments.mean.reshape(rows), moments.variance.reshape(rows), moments.pixels)
