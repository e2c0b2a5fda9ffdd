"""A whole derived cell as one program for the compiled kernels, where they know everything in it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from archgrad.derived_cell import DerivedCell
from archgrad.exactness import as_defined, is_exactly
from archgrad.fast import native
from archgrad.fast.affine_parts import affine_parts
from archgrad.fast.branches import branch_of, output_size
from archgrad.fast.lowering import Candidate, DerivedWiring, Edge, Layout, Shape, as_known, kind_of_pass
from archgrad.fast.pointwise import NATIVE_UP_TO
from archgrad.fast.recorded import Recorded
from archgrad.fast.recorder import record
from archgrad.fast.unchanged import StructureCache
from archgrad.operations import DropPath

__all__ = ["evaluate"]

as_defined(DropPath)


class _Kept(NamedTuple):
    """A cell's program, and what it is run with."""

    recorded: Recorded
    n_factors: int


def evaluate(
    cell: DerivedCell, states: Sequence[Tensor | None], alone: set[int], kept: StructureCache
) -> Tensor | None:
    """Return what the cell's plain forward pass returns, channels_last; None if that takes more than the kernels know.

    Args:
        cell: A derived cell.
        states: Its inputs, (B, C, H, W) each; None for those that it does not use.
        alone: Identities of its operations that share nothing.
        kept: Keeps the recorded program.
    """
    given = {number: x for number, x in enumerate(states) if x is not None}
    x, drop = next(iter(given.values())), cell.drop_path
    if not native.takes(*given.values()) or any(other.shape != x.shape for other in given.values()):
        return None
    if x.shape[1] > NATIVE_UP_TO or not (drop is None or is_exactly(drop, DropPath)):
        return None
    drops = isinstance(drop, DropPath) and drop.drops
    with torch.inference_mode(False):  # what is kept serves other passes, too
        wiring = (tuple(map(tuple, cell.nodes)), tuple(cell.concat))
        kind = ("whole", kind_of_pass(list(given.values())), tuple(given), wiring, drops)
        found = kept.find(kind, lambda: _record(cell, list(given), x, alone, drops=drops))
    if found is None:
        return None
    recorded, n_factors = found
    weights, projections = recorded.weights(), recorded.projections()
    mixing = x.new_ones(sum(len(places) for _, places in recorded.mixing))
    affine = affine_parts(recorded.program, recorded.norms, [mixing])
    if not native.takes(x, *weights, *projections, *chain.from_iterable(affine)):
        return None
    factors = None
    if isinstance(drop, DropPath) and n_factors:  # drawn in the order of the operations, as one by one
        factors = torch.stack([drop.draw(x).flatten() for _ in range(n_factors)])
    output, mean, variance = native.run_program(
        recorded.program, list(given.values()), weights, projections, mixing, affine=affine, factors=factors
    )
    recorded.move_statistics(mean, variance)
    return output


def _record(cell: DerivedCell, inputs: Sequence[int], x: Tensor, alone: set[int], *, drops: bool) -> _Kept | None:
    """Return the program of a cell that is given these of its inputs, all like `x`."""
    at = {number: k for k, number in enumerate(inputs)}  # states as they are counted without those that are not used
    shapes: list[Shape | None] = [tuple(x.shape)] * len(inputs)
    entering: list[list[Edge]] = []
    factors: dict[int, int] = {}
    pairs: list[tuple[int, int]] = []
    for node, own in enumerate(cell.nodes, start=cell.n_inputs):
        if not own:
            continue
        edges: list[Edge] = []
        gives: set[Shape] = set()
        for key, source in own:
            operation, number = cell.operations[key], len(pairs)
            branch = as_known(branch_of(operation), x.dtype, x.device) if id(operation) in alone else None
            shape = None if branch is None else output_size(branch, cast(Shape, shapes[at[source]]))
            if shape is None:
                return None
            gives.add(shape)
            candidate = Candidate(at[source], len(entering), operation, number, 0, number, branch)
            edges.append(Edge(number, at[source], shape, (candidate,), 0))
            pairs.append((at[source], len(shapes)))
            if drops and not isinstance(operation, nn.Identity):
                factors[number] = len(factors)
        if len(gives) > 1:
            return None
        at[node] = len(shapes)
        shapes += gives
        entering.append(edges)
    wiring = DerivedWiring(len(inputs), pairs, [at[node] for node in cell.concat], factors)
    recorded = record(wiring, Layout(entering, shapes))
    return None if recorded is None else _Kept(recorded, len(factors))
