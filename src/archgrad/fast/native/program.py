"""Stages one after the other as one function of PyTorch's.

Between the stages there is no graph: gradients of images that several stages read are added up where they are made, by
the kernels, and nothing but what is given out is handed over from node to node of autograd.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import and_
from typing import Any, NamedTuple

import torch
from torch import Tensor

from archgrad.fast.composition import gradients_where
from archgrad.fast.native.library import image_like
from archgrad.fast.native.native_passes import Normalised, Operands, Target, backward, dense, forward
from archgrad.fast.native.native_stage import run_again
from archgrad.fast.native.other_step import Asked, OtherStep
from archgrad.fast.native.plan import Plan

__all__ = ["Affine", "Program", "Step", "run_program"]


class Step(NamedTuple):
    """One stage of a program. Those that sum have mixing weights for all of their units; the others have none."""

    plan: Plan
    reads: tuple[int, ...]
    """The image of each input of the plan, none twice."""

    @property
    def counts(self) -> tuple[int, int, int, int, int]:
        """How many images, weights, projections, terms and values a program has of it."""
        plan = self.plan
        images, terms = (1, len(plan.normalised)) if plan.summed else (len(plan.units), 0)
        return images, plan.n_weights, plan.n_projections, terms, len(plan.values)


class _Share(NamedTuple):
    """What of a program's tensors is a step's own."""

    images: slice
    """Its outputs."""
    weights: slice
    projections: slice
    terms: slice
    """Mixing weights of the units with a BatchNorm."""
    values: slice
    """Mixing weights of the others, or of what passes by."""
    norms: slice
    """Units with a BatchNorm."""


@dataclass(frozen=True)
class Program:
    """Stages that read images and append their outputs to them; images 0 to `n_inputs` - 1 are given."""

    n_inputs: int
    steps: tuple[Step | OtherStep, ...]
    outputs: tuple[int, ...]
    """The images that are returned joined along the channels, none or several of them, or one as it is; each is an
    output of a step."""
    apart: tuple[int, ...] = ()
    """The images that are returned by themselves, behind what is joined; each is an output of a step, and none is the
    only one of `outputs`."""

    @cached_property
    def shares(self) -> list[_Share]:
        """The share of every step, each beginning where that of the step before ended."""
        shares, ends = [], [self.n_inputs, 0, 0, 0, 0]

        def take(which: int, n: int) -> slice:
            begin, ends[which] = ends[which], ends[which] + n
            return slice(begin, ends[which])

        for step in self.steps:
            n_norms = len(step.plan.normalised) if isinstance(step, Step) else 0
            kinds = zip((0, 1, 2, 3, 3, 4), (*step.counts, n_norms), strict=True)
            shares.append(_Share(*(take(which, n) for which, n in kinds)))
        return shares

    def reached(self, n: int, by_outputs: Sequence[bool]) -> list[bool]:
        """Return what outputs depend on: the mixing weights, in n parts, inputs, weights and projections, all in a row.

        Args:
            n: 1, or how many steps sum.
            by_outputs: Which outputs, of those that are returned.
        """
        every = ([self.outputs] if self.outputs else []) + [(image,) for image in self.apart]
        images = {image for given, asked in zip(every, by_outputs, strict=True) if asked for image in given}
        weights: list[bool] = []  # from the last to the first
        projections: list[bool] = []
        sums: list[bool] = []
        for step, share in zip(reversed(self.steps), reversed(self.shares), strict=True):
            made = [image in images for image in range(share.images.start, share.images.stop)]
            if not isinstance(step, Step):
                images.update(step.reads if any(made) else ())
                continue
            plan = step.plan
            units = list(zip(plan.units, made * len(plan.units) if plan.summed else made, strict=True))
            images.update(step.reads[unit.input] for unit, asked in units if asked)
            weights += [asked for unit, asked in reversed(units) if unit.geometry is not None]
            projections += [asked for unit, asked in reversed(units) if unit.projected]
            sums += made if plan.summed else []
        inputs = [image in images for image in range(self.n_inputs)]
        return [*([True] if n == 1 else sums[::-1]), *inputs, *weights[::-1], *projections[::-1]]

    def split(self, items: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any], Sequence[Any]]:
        """Return what belongs to the inputs, the weights of convolutions and the projections, from all in a row."""
        weights = self.n_inputs + self.shares[-1].weights.stop
        return items[: self.n_inputs], items[self.n_inputs : weights], items[weights:]


class Affine(NamedTuple):
    """What BatchNorms do behind normalising, (K, O) each, a row for each unit with one."""

    scale: Tensor
    shift: Tensor


def run_program(
    program: Program,
    inputs: Sequence[Tensor],
    weights: Sequence[Tensor],
    projections: Sequence[Tensor],
    mixing: Tensor | Sequence[Tensor],
    *,
    affine: Affine | None = None,
    factors: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Compute a program, with BatchNorms by the statistics of the batch.

    Args:
        program: What to compute.
        inputs: (B, C, H, W) each.
        weights: Of the convolutions, in the order of their units, (C, 1, k, k) each.
        projections: In the order of their units, (O, C) or (O, C, 1, 1) each, and (O, C, k, k) if wide.
        mixing: Weights of the units of the steps that sum, for each step first those of units with a BatchNorm. In a
            tensor for each step, if the gradients by those of a step that nothing depends on are to be None.
        affine: Of the BatchNorms; the mixing weights of units with one are then not read.
        factors: (F, B), what the units say that multiplies them; without gradients.

    Returns:
        The outputs, (B, C', H', W') each: what is joined, if anything is, and those apart. Then the means and biased
        variances of the units with a BatchNorm in their order, (K, O) each.
    """
    tensors = [*map(dense, inputs), *(w.contiguous() for w in weights), *map(dense, projections)]
    parts = [mixing] if isinstance(mixing, Tensor) else mixing
    scale, shift = (None, None) if affine is None else affine
    return _Program.apply(program, len(parts), scale, shift, factors, *parts, *tensors)


class _Program(torch.autograd.Function):
    """(program, n, scale, shift, factors, *mixing, *inputs, *weights, *projections) -> (*outputs, means, variances)."""

    @staticmethod
    def forward(
        ctx: Any,
        program: Program,
        n: int,
        scale: Tensor | None,
        shift: Tensor | None,
        factors: Tensor | None,
        *given: Tensor,
    ) -> tuple[Tensor, ...]:
        parts, tensors = given[:n], given[n:]
        affine = None if scale is None or shift is None else Affine(scale, shift)
        mixing = _whole(parts)
        inputs, weights, projections = program.split(tensors)
        images = list(inputs)
        means, variances, inverses = [], [], []
        results: list[Tensor] = []
        for step, share in zip(program.steps, program.shares, strict=True):
            if not isinstance(step, Step):
                images.extend(step.forward([images[i] for i in step.reads], mixing[share.values]))
                continue
            plan, reads = step
            operands = Operands(
                [images[i] for i in reads], weights[share.weights], projections[share.projections], factors
            )
            values = mixing[share.values] if plan.values else None
            outputs, normalised = forward(plan, operands, *_line(plan, mixing, affine, share), values, None)
            images.extend(outputs)
            if normalised is not None:
                means.append(normalised.mean)
                variances.append(normalised.variance)
                inverses.append(normalised.inverse)
                results.extend(normalised.results)
        mean, variance, inverse = map(_rows, (means, variances, inverses), [inputs[0]] * 3)
        ctx.program, ctx.n, ctx.n_results = program, n, len(results)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(mean, variance)
        ctx.save_for_backward(
            mean, variance, inverse, scale, shift, factors, *results, *parts, *tensors, *images[program.n_inputs :]
        )
        return *_given_out(program, images), mean, variance

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        program, n, by_outputs = ctx.program, ctx.n, grads[:-2]
        mean, variance, inverse, scale, shift, factors, *large = ctx.saved_tensors
        affine = None if scale is None else Affine(scale, shift)
        results, rest = large[: ctx.n_results], large[ctx.n_results :]
        if all(g is None for g in by_outputs):
            return (None,) * len(ctx.needs_input_grad)
        needed = [*map(and_, ctx.needs_input_grad[5:], program.reached(n, [g is not None for g in by_outputs]))]
        given, made = rest[: len(needed)], rest[len(needed) :]
        if torch.is_grad_enabled():
            small = [*ctx.needs_input_grad[2:4], False, *needed]
            return (
                None,
                None,
                *_differentiable_gradients(program, n, (scale, shift, factors), given, made, by_outputs, small),
            )
        mixing, needs_mixing = _whole(given[:n]), any(needed[:n])
        inputs, weights, projections = program.split(given[n:])
        need_inputs, need_weights, need_projections = program.split(needed[n:])
        images = [dense(x) for x in (*inputs, *made)]  # whatever keeps tensors between the passes
        results = [dense(x) for x in results]
        projections = [dense(p) for p in projections]
        needs_affine = any(ctx.needs_input_grad[2:4])
        wanted = list(need_inputs)  # of every image, whether anything asks for its gradient
        for step, share in zip(program.steps, program.shares, strict=True):
            mixes = (needs_mixing and share.values.stop > share.terms.start) or (
                needs_affine and share.norms.stop > share.norms.start
            )
            own = (*need_weights[share.weights], *need_projections[share.projections], mixes)
            wanted += [any(own) or any(wanted[i] for i in step.reads)] * (share.images.stop - share.images.start)
        of_image = _of_images(program, by_outputs)
        by_mixing = torch.zeros_like(mixing) if needs_mixing else None
        by_weights: list[Tensor | None] = [None] * len(weights)
        by_projections: list[Tensor | None] = [None] * len(projections)
        by_affine = Affine(torch.zeros_like(scale), torch.zeros_like(shift)) if needs_affine else None
        for step, share in zip(reversed(program.steps), reversed(program.shares), strict=True):
            rows = share.norms
            gs = [of_image.pop(i, None) for i in range(share.images.start, share.images.stop)]
            if all(part is None for part in gs):
                continue
            targets: list[Target | None] = [None] * len(step.reads)
            for t, i in enumerate(step.reads):
                if wanted[i]:
                    adds = i in of_image
                    if not adds:
                        of_image[i] = image_like(images[i], *images[i].shape[1:])
                    targets[t] = Target(of_image[i], adds)
            if not isinstance(step, Step):
                own_mixing = step.backward(
                    Asked(
                        [images[i] for i in step.reads],
                        images[share.images],
                        mixing[share.values],
                        gs,
                        targets,
                        by_mixing is not None,
                    )
                )
                if own_mixing is not None and by_mixing is not None:
                    by_mixing[share.values] = own_mixing
                continue
            plan, reads = step
            found = backward(
                plan,
                Operands([images[i] for i in reads], weights[share.weights], projections[share.projections], factors),
                *_line(plan, mixing, affine, share),
                mixing[share.values] if plan.values else None,
                Normalised(mean[rows], variance[rows], inverse[rows], results[rows]),
                [torch.zeros_like(images[share.images.start]) if part is None else part for part in gs],
                fixed=False,
                to_inputs=targets,
                to_weights=need_weights[share.weights],
                to_projections=any(need_projections[share.projections]),
                to_mixing=by_mixing is not None and bool(plan.values),
            )
            by_weights[share.weights] = found.weights
            if found.projections is not None:
                by_projections[share.projections] = found.projections
            if by_affine is not None and found.scale is not None and found.totals is not None:
                by_affine.scale[rows], by_affine.shift[rows] = found.scale, found.totals
            if by_mixing is not None and plan.summed:
                if found.scale is not None and affine is None:
                    by_mixing[share.terms] = found.scale.sum(1)
                if found.mixing is not None:
                    by_mixing[share.values] = found.mixing
        by_inputs = [of_image.get(i) for i in range(program.n_inputs)]
        by_parts = [None] * n if by_mixing is None else by_mixing.split([len(part) for part in given[:n]])
        found_by = (*by_parts, *by_inputs, *by_weights, *by_projections)
        of_norms = (None, None) if by_affine is None else by_affine
        return None, None, *of_norms, None, *(g if need else None for g, need in zip(found_by, needed, strict=True))


def _line(plan: Plan, mixing: Tensor, affine: Affine | None, share: _Share) -> tuple[Tensor | None, Tensor | None]:
    """By what the outputs of a step's BatchNorms are multiplied, (T, 1) or (T, O), and what is added to these, or to
    their sum, (T, O) or (1, O); None for nothing."""
    if not plan.normalised:
        return None, None
    if affine is not None:
        shift = affine.shift[share.norms]
        return affine.scale[share.norms], shift.sum(0, True) if plan.summed and not plan.has_factors else shift
    return mixing[share.terms].unsqueeze(1) if plan.summed else mixing.new_ones(len(plan.normalised), 1), None


def _rows(parts: Sequence[Tensor], like: Tensor) -> Tensor:
    return torch.cat(list(parts)) if parts else like.new_empty(0, like.shape[1])


def _whole(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _given_out(program: Program, images: Sequence[Tensor]) -> list[Tensor]:
    """The outputs of a program, of its images."""
    whole = [images[i] for i in program.outputs]
    joined = [torch.cat(whole, dim=1)] if len(whole) > 1 else whole
    return joined + [images[i] for i in program.apart]


def _of_images(program: Program, by_outputs: Sequence[Tensor | None]) -> dict[int, Tensor]:
    """The gradients by the images that are given out, each a copy that may be added to."""
    found: dict[int, Tensor] = {}
    every = [(image,) for image in program.apart]
    for images, g in zip([program.outputs, *every] if program.outputs else every, by_outputs, strict=True):
        for image, part in zip(images, () if g is None else g.chunk(len(images), dim=1), strict=g is not None):
            if image in found:
                found[image].add_(part)
            else:
                found[image] = part.clone(memory_format=torch.channels_last)
    return found


def _differentiable_gradients(
    program: Program,
    n: int,
    small: tuple[Tensor | None, Tensor | None, Tensor | None],
    given: Sequence[Tensor],
    made: Sequence[Tensor],
    by_outputs: Sequence[Tensor | None],
    needed: Sequence[bool],
) -> list[Tensor | None]:
    """The gradients by (scale, shift, factors, *mixing, *tensors), differentiable again: computed once more, step by
    step."""
    # As aliases, so that none of them is an ancestor of another in the graph that is differentiated.
    scale, shift, factors = (None if t is None else t.view_as(t) for t in small)
    affine = None if scale is None or shift is None else Affine(scale, shift)
    arguments = [t.view_as(t) for t in given]
    mixing = _whole(arguments[:n])
    inputs, weights, projections = program.split(arguments[n:])
    images = list(inputs)
    for step, share in zip(program.steps, program.shares, strict=True):
        if not isinstance(step, Step):
            own = made[share.images.start - program.n_inputs : share.images.stop - program.n_inputs]
            images.extend(step.composed([images[i] for i in step.reads], own, mixing[share.values]))
            continue
        plan, reads = step
        projected = [unit for unit in plan.units if unit.projected]
        own_projections = zip(projected, projections[share.projections], strict=True)
        matrices = [p if unit.wide else p.flatten(1) for unit, p in own_projections]
        channels = matrices[0].shape[0] if matrices else images[reads[0]].shape[1]
        own_scale, own_shift = _line(plan, mixing, affine, share)
        outputs = run_again(
            plan,
            Operands([images[i] for i in reads], weights[share.weights], matrices, factors),
            None if own_scale is None else own_scale.expand(-1, channels),
            own_shift,
            mixing[share.values] if plan.values else None,
        )
        images.extend(outputs)
    pairs = [(y, g) for y, g in zip(_given_out(program, images), by_outputs, strict=True) if g is not None]
    every = [scale, shift, factors, *arguments]
    return gradients_where(needed, [y for y, _ in pairs], every, [g for _, g in pairs], allow_unused=True)
