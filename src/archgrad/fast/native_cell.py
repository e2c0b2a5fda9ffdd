"""A whole cell as one program for the compiled kernels, where they know everything in it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import chain

import torch
from torch import Tensor

from archgrad.choices import Mixture
from archgrad.fast import native
from archgrad.fast.affine_parts import affine_parts
from archgrad.fast.lowering import Layout, Wiring
from archgrad.fast.pointwise import NATIVE_UP_TO
from archgrad.fast.recorder import record
from archgrad.fast.unchanged import StructureCache

__all__ = ["evaluate"]


def evaluate(
    cell: Wiring,
    states: Sequence[Tensor],
    mixtures: Sequence[Mixture],
    layout: Layout,
    kept: StructureCache,
    kind: Hashable,
) -> list[Tensor] | None:
    """Return in a list what the cell's plain forward pass returns; None if that takes more than the kernels know.

    Of a `FreeWiring` it is the states that it joins, as one, if there are any, and then every state after the inputs.

    Args:
        cell: A cell with open edges, or layer choices that are wired alike.
        states: Its inputs, (B, C, H, W) each, of all channels.
        mixtures: The mixture of every edge, in the order of `cell.edges`.
        layout: Of this pass.
        kept: Keeps the recorded program.
        kind: What the program depends on beside the cell.
    """
    if not native.takes(*states) or any(x.shape != states[0].shape for x in states):
        return None
    if states[0].shape[1] > NATIVE_UP_TO * cell.partial_channels or any(m.straight_through for m in mixtures):
        return None
    edges = [mixture.edge for mixture in mixtures if mixture.edge is not None] if cell.partial_channels > 1 else []
    if edges and len(edges) < len(mixtures):
        return None
    with torch.inference_mode(False):  # what is kept serves other passes, too
        recorded = kept.find(("whole", kind, bool(edges)), lambda: record(cell, layout, weighted=bool(edges)))
    if recorded is None or not all(skip.training for skip in recorded.noisy):
        return None
    weights, projections = recorded.weights(), recorded.projections()
    every = [mixture.weights for mixture in mixtures] + ([torch.stack(edges)] if edges else [])
    mixing = [torch.cat(every[of])[places] for of, places in recorded.mixing]
    affine = affine_parts(recorded.program, recorded.norms, mixing)
    if not native.takes(states[0], *weights, *projections, *mixing, *chain.from_iterable(affine)):
        return None
    *outputs, mean, variance = native.run_program(recorded.program, states, weights, projections, mixing, affine=affine)
    recorded.move_statistics(mean, variance)
    return outputs
