"""A program's gradients written with PyTorch's operations: differentiable as often as wanted."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from archgrad.fast.composition import gradients_where
from archgrad.fast.native.native_passes import Operands
from archgrad.fast.native.native_stage import run_again
from archgrad.fast.native.other_step import Rows
from archgrad.fast.native.program import Step, given_out, line_of
from archgrad.fast.native.program_gradients import Ran

__all__ = ["composed_gradients", "composed_twice"]


def composed_gradients(ran: Ran, by_outputs: Rows, needed: Sequence[bool]) -> list[Tensor | None]:
    """As `program_gradients.gradients`: computed once more, step by step.

    Args:
        ran: With aliases (see `Ran.aliased`).
        by_outputs: As there.
        needed: As there.
    """
    program, mixing, images = ran.program, ran.mixing, list(ran.inputs)
    for step, share in zip(program.steps, program.shares, strict=True):
        read = [images[i] for i in step.reads]
        if not isinstance(step, Step):
            kernels = ran.projections[share.projections]
            images.extend(step.composed(read, ran.images[share.images], mixing[share.values], kernels))
            continue
        plan = step.plan
        projected = [unit for unit in plan.units if unit.projected]
        own_projections = zip(projected, ran.projections[share.projections], strict=True)
        matrices = [p if unit.wide else p.flatten(1) for unit, p in own_projections]
        channels = matrices[0].shape[0] if matrices else read[0].shape[1]
        scale, shift = line_of(plan, mixing, ran.affine, share)
        outputs = run_again(
            plan,
            Operands(read, ran.weights[share.weights], matrices, ran.factors),
            None if scale is None else scale.expand(-1, channels),
            shift,
            mixing[share.values] if plan.values else None,
        )
        images.extend(outputs)
    pairs = [(y, g) for y, g in zip(given_out(program, images), by_outputs, strict=True) if g is not None]
    return gradients_where(needed, [y for y, _ in pairs], ran.given, [g for _, g in pairs], allow_unused=True)


def composed_twice(
    ran: Ran,
    by_outputs: Rows,
    along: Rows,
    asked: Sequence[bool],
    asks_outputs: Sequence[bool],
    *,
    needed: Sequence[bool],
) -> tuple[Rows, Rows]:
    """The gradients of the inner product of the gradients with `along`, by what was given and by the outputs'
    gradients, where asked for."""
    ran = ran.aliased()
    by_outputs = [None if g is None else g.view_as(g) for g in by_outputs]
    found = composed_gradients(ran, by_outputs, needed)
    pairs = [(x, d) for x, d in zip(found, along, strict=True) if x is not None and d is not None]
    every = [*ran.given, *by_outputs]
    by_all = gradients_where(
        [*asked, *asks_outputs], [x for x, _ in pairs], every, [d for _, d in pairs], allow_unused=True
    )
    return by_all[: len(ran.given)], by_all[len(ran.given) :]
