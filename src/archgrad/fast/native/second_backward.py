"""A program's gradients as a function that is differentiated once more (see `tangents`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from archgrad.fast.native.composed_program import composed_gradients, composed_twice
from archgrad.fast.native.native_passes import dense
from archgrad.fast.native.other_step import Asked, Place, Rows, Run, or_zeros, targets_at
from archgrad.fast.native.program import (
    Affine,
    Parts,
    Program,
    Share,
    Step,
    given_out,
    gradients_of_images,
    line_of,
    whole,
)
from archgrad.fast.native.program_gradients import Ran, gradients, in_parts, room_for
from archgrad.fast.native.pulled import Wanted, pull
from archgrad.fast.native.pushed import Pushed, push
from archgrad.fast.native.tangents import Along, StagePoint

__all__ = ["differentiable_gradients"]


def differentiable_gradients(ran: Ran, by_outputs: Rows, needed: Sequence[bool]) -> list[Tensor | None]:
    """As `gradients`, differentiable again."""
    again = ran.aliased()
    if again.factors is not None:
        return composed_gradients(again, by_outputs, needed)
    return list(_Gradients.apply(ran.program, ran.parts, needed, *again.tensors, *by_outputs))


class _Gradients(torch.autograd.Function):
    """(program, parts, needed, *tensors of `Ran`, *by_outputs) -> the gradients by what the program was given."""

    @staticmethod
    def forward(ctx: Any, program: Program, parts: Parts, needed: Sequence[bool], *tensors: Tensor | None) -> Any:
        ran, by_outputs = _split(program, parts, tensors)
        ctx.program, ctx.parts, ctx.needed = program, parts, needed
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        return tuple(gradients(ran, by_outputs, needed))

    @staticmethod
    def backward(ctx: Any, *along: Any) -> Any:
        if all(d is None for d in along):
            return (None,) * len(ctx.needs_input_grad)
        ran, by_outputs = _split(ctx.program, ctx.parts, ctx.saved_tensors)
        _, given, made = ran.places
        asked = _asked(ctx, ctx.saved_tensors)
        find = partial(composed_twice, needed=ctx.needed) if torch.is_grad_enabled() else _along
        by_given, by_gradients = find(ran, by_outputs, along, asked[given], asked[made.stop :])
        nothing: list[None] = [None] * (3 + given.start)
        return *nothing, *by_given, *([None] * (made.stop - made.start)), *by_gradients


def _split(program: Program, parts: Parts, tensors: Rows) -> tuple[Ran, Rows]:
    """What was run, and the gradients by its outputs."""
    end = Ran(program, parts, ()).places[2].stop
    return Ran(program, parts, tuple(tensors[:end])), tensors[end:]


def _asked(ctx: Any, tensors: Rows) -> list[bool]:
    """For each tensor that a function was given, whether the backward pass that runs asks for its gradient."""
    nodes = iter(ctx.next_functions)
    return [t is not None and _runs(next(nodes)[0]) for t in tensors]


def _runs(node: Any) -> bool:
    if node is None:
        return False
    try:
        return bool(torch._C._will_engine_execute_node(node))
    except RuntimeError:  # it does not say so of leaves
        return True


def _along(
    ran: Ran, by_outputs: Rows, along: Rows, asked: Sequence[bool], asks_outputs: Sequence[bool]
) -> tuple[Rows, Rows]:
    """The gradients of the inner product of the gradients with `along`: by what was given, and by the outputs'
    gradients, where asked for."""
    reached = ran.program.reached(ran.parts, [g is not None for g in by_outputs])
    wanted = [asks and leads for asks, leads in zip(asked, reached, strict=True)]
    direction = _Direction.of(ran, along)
    passed = direction.push(ran)
    by_gradients: Rows = [None] * len(by_outputs)
    if any(asks_outputs):
        outputs = given_out(ran.program, or_zeros(direction.images, ran.images))
        by_gradients = [y if asks else None for y, asks in zip(outputs, asks_outputs, strict=True)]
    return _pulled(ran, by_outputs, passed, wanted) if any(wanted) else [None] * len(wanted), by_gradients


class _Passed(NamedTuple):
    """A stage that was gone through along a direction."""

    at: StagePoint
    along: Along
    pushed: Pushed


@dataclass
class _Direction:
    """A direction of what a program was given, and the derivatives along it of its images; None for zero."""

    mixing: Tensor | None
    affine: Affine | None
    weights: Rows
    projections: Rows
    images: list[Tensor | None]

    @classmethod
    def of(cls, ran: Ran, along: Rows) -> _Direction:
        """Return one whose images are the inputs."""
        first, end, mixing = ran.parts.mixing, ran.parts.all, None
        if any(part is not None for part in along[:first]):
            mixing = whole(or_zeros(along[:first], ran.given[:first]))
        affine = ran.parts.affine(or_zeros(along[:end], ran.given[:end]))
        inputs, weights, projections = ran.program.split([None if d is None else dense(d) for d in along[end:]])
        return cls(mixing, affine, weights, projections, list(inputs))

    def push(self, ran: Ran) -> list[_Passed | Run]:
        """Go through all steps, and return for each what it was given and gave."""
        passed: list[_Passed | Run] = []
        for step, share in zip(ran.program.steps, ran.program.shares, strict=True):
            read = [self.images[i] for i in step.reads]
            values = None if self.mixing is None else self.mixing[share.values]
            if isinstance(step, Step):
                at, own = _point(ran, step, share), self._of_stage(step, share, read, values)
                stage = _Passed(at, own, push(at, own))
                passed.append(stage)
                self.images += stage.pushed.outputs
            else:
                images = [ran.images[i] for i in step.reads]
                given = images, ran.images[share.images], ran.mixing[share.values], ran.projections[share.projections]
                run = Run(*given, read, values, self.projections[share.projections])
                passed.append(run)
                self.images += step.push(run)
        return passed

    def _of_stage(self, step: Step, share: Share, read: Rows, values: Tensor | None) -> Along:
        scale, shift = None, None
        if self.affine is not None:
            scale, shift = self.affine.scale[share.norms], self.affine.shift[share.norms]
        elif self.mixing is not None and step.plan.summed:
            scale = self.mixing[share.terms].unsqueeze(1)
        return Along(
            read,
            self.weights[share.weights],
            self.projections[share.projections],
            scale,
            shift,
            values if step.plan.values else None,
        )


def _point(ran: Ran, step: Step, share: Share) -> StagePoint:
    plan = step.plan
    scale, _ = line_of(plan, ran.mixing, ran.affine, share)
    normalised = ran.normalised(share) if plan.normalised else None
    mixing = ran.mixing[share.values] if plan.values else None
    return StagePoint(plan, ran.operands(step, share), scale, mixing, normalised, ran.images[share.images])


def _pulled(ran: Ran, by_outputs: Rows, passed: Sequence[_Passed | Run], wanted: Sequence[bool]) -> list[Tensor | None]:
    """The derivatives of the gradients by what was given, where wanted."""
    program, n_small = ran.program, ran.parts.all
    need_inputs, need_weights, need_projections = program.split(wanted[n_small:])
    of_image, of_direction = gradients_of_images(program, by_outputs), dict[int, Tensor]()
    by_mixing = torch.zeros_like(ran.mixing)
    by_affine = None if ran.affine is None else Affine(*map(torch.zeros_like, ran.affine))
    by_weights: list[Tensor | None] = [None] * len(need_weights)
    by_projections: list[Tensor | None] = [None] * len(need_projections)

    def place(i: int, found: dict[int, Tensor], *, needed: bool) -> Place:
        return partial(room_for, ran.images, i, found) if i >= program.n_inputs or needed else None

    backwards = zip(reversed(program.steps), reversed(program.shares), reversed(passed), strict=True)
    for step, share, before in backwards:
        made = range(share.images.start, share.images.stop)
        gs, d_gs = ([found.pop(i, None) for i in made] for found in (of_image, of_direction))
        if all(g is None for g in gs):
            continue
        to_inputs = [place(i, of_image, needed=False) for i in step.reads]
        to_directions = [place(i, of_direction, needed=i < program.n_inputs and need_inputs[i]) for i in step.reads]
        if not isinstance(step, Step):
            assert isinstance(before, Run)
            targets = targets_at(to_inputs)
            to_kernels = need_projections[share.projections]
            nothing = [False] * len(to_kernels)
            step.backward(
                Asked(before.images, before.made, before.weights, before.kernels, gs, targets, to_kernels=nothing)
            )
            own = step.pull(before, gs, d_gs, to_directions, to_kernels)
            by_projections[share.projections] = own.kernels
            if own.weights is not None:
                by_mixing[share.values] = own.weights
            continue
        assert isinstance(before, _Passed)
        needs = Wanted(any(wanted[:n_small]), need_weights[share.weights], need_projections[share.projections])
        pulled = pull(before.at, before.along.mixing, before.pushed, gs, d_gs, to_inputs, to_directions, needs)
        by_weights[share.weights], by_projections[share.projections] = pulled.weights, pulled.projections
        if by_affine is not None and pulled.scale is not None and pulled.shift is not None:
            by_affine.scale[share.norms], by_affine.shift[share.norms] = pulled.scale, pulled.shift
        elif step.plan.summed and pulled.scale is not None:
            by_mixing[share.terms] = pulled.scale.sum(1)
        if pulled.mixing is not None:
            by_mixing[share.values] = pulled.mixing
    by_inputs = [of_direction.get(i) for i in range(program.n_inputs)]
    every = (*in_parts(ran, by_mixing, by_affine), *by_inputs, *by_weights, *by_projections)
    return [g if want else None for g, want in zip(every, wanted, strict=True)]
