"""A stage written with PyTorch's operations: what tests hold the kernels to, and what is differentiated twice."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from archgrad.fast.composition import compose, gradients_where
from archgrad.fast.depthwise import Geometry, fan_out
from archgrad.fast.grids import both_grids, for_both_grids
from archgrad.fast.native.plan import Plan

__all__ = ["compose_stage", "differentiable_stage_gradients"]


def differentiable_stage_gradients(
    plan: Plan,
    arguments: Sequence[Tensor | None],
    fixed: tuple[Tensor, Tensor] | None,
    gs: Sequence[Tensor | None],
    needed: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """The gradients by all arguments, differentiable again: the stage is computed once more, from its inputs."""
    # As aliases, so that none of them is an ancestor of another in the graph that is differentiated.
    aliases = [None if t is None else t.view_as(t) for t in arguments]
    outputs = compose_stage(plan, aliases, fixed)
    used = [(y, g) for y, g in zip(outputs, gs, strict=True) if g is not None]
    grads = gradients_where(needed, [y for y, _ in used], aliases, [g for _, g in used], allow_unused=True)
    return None, *grads[:3], None, None, *grads[3:]


def compose_stage(plan: Plan, arguments: Sequence[Any], fixed: tuple[Tensor, Tensor] | None) -> list[Tensor]:
    """What the stage computes, from differentiable functions."""
    scale, shift, mixing, *tensors = arguments
    inputs, weights, projections = plan.split(tensors)
    rectified = {unit.input: torch.relu(inputs[unit.input]) for unit in plan.units if unit.relu}
    values = [(rectified if unit.relu else inputs)[unit.input] for unit in plan.units]
    shared: dict[tuple[int, bool], list[tuple[int, Tensor, Geometry]]] = {}
    for k, (unit, weight) in enumerate(zip(plan.units, plan.weight_of_each(weights), strict=True)):
        if unit.geometry is not None and weight is not None:
            shared.setdefault((unit.input, unit.relu), []).append((k, weight, unit.geometry))
    for group in shared.values():
        keys, kernels, geometries = zip(*group, strict=True)
        for k, z in zip(keys, fan_out(values[keys[0]], kernels, geometries), strict=True):
            values[k] = z
    own = iter(projections)
    matrices: dict[int, Tensor] = {}
    for k, unit in enumerate(plan.units):
        if unit.pool is not None:
            values[k] = unit.pool(values[k])
        elif unit.factorized:
            values[k], matrices[k] = both_grids(values[k]), for_both_grids(next(own))
        elif unit.wide is not None:
            values[k] = F.conv2d(values[k], next(own), None, unit.wide.stride, unit.wide.padding, unit.wide.dilation)
        elif unit.projected:
            matrices[k] = next(own)
    at = plan.normalised
    images: list[Tensor] = []
    if at:
        as_it_is = torch.eye(scale.shape[1], dtype=scale.dtype, device=scale.device)
        rows = [values[k].permute(0, 2, 3, 1).reshape(-1, values[k].shape[1]) for k in at]
        b, _, h, w = values[at[0]].shape
        found = _compose_all(scale, [matrices.get(k, as_it_is) for k in at], shift, fixed, plan, rows)
        images = [y.view(b, h, w, -1).permute(0, 3, 1, 2) for y in found]
    if mixing is None:
        return images
    others = [values[k] for k in plan.values]
    return [sum((m * v for m, v in zip(mixing, others, strict=True)), *images)]


def _compose_all(
    scale: Tensor,
    matrices: Sequence[Tensor],
    shift: Tensor | None,
    fixed: tuple[Tensor, Tensor] | None,
    plan: Plan,
    rows: Sequence[Tensor],
) -> list[Tensor]:
    """As `compose`, by a call for every width of the rows."""
    groups: dict[int, list[int]] = {}
    for k, z in enumerate(rows):
        groups.setdefault(z.shape[1], []).append(k)
    found: dict[int, Tensor] = {}  # if the plan is summed, the sum of each group
    for at in groups.values():
        own = shift
        if shift is not None:
            own = shift[at] if not plan.summed else None if found else shift
        outputs = compose(
            scale[at],
            torch.stack([matrices[k] for k in at]),
            own,
            None if fixed is None else (fixed[0][at], fixed[1][at]),
            plan.eps,
            plan.relu,
            plan.summed,
            [rows[k] for k in at],
        )
        found.update(zip(at, outputs, strict=not plan.summed))
    if not plan.summed:
        return [found[k] for k in range(len(rows))]
    return [reduce(torch.add, found.values())]
