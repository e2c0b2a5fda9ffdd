"""Stages one after the other, as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from archgrad.fast.native.other_step import OtherStep
from archgrad.fast.native.plan import Plan

__all__ = [
    "Affine",
    "Parts",
    "Program",
    "Share",
    "Step",
    "given_out",
    "gradients_of_images",
    "line_of",
    "whole",
]


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


class Share(NamedTuple):
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


class Parts(NamedTuple):
    """In how many tensors a program is given what is small."""

    mixing: int
    """Of mixing weights: 1, or how many steps sum."""
    norms: int = 0
    """Of scales, and as many of shifts: as `Program.norm_parts`, or none."""

    @property
    def all(self) -> int:
        """How many come before the inputs."""
        return self.mixing + 2 * self.norms

    def affine(self, given: Sequence[Tensor]) -> Affine | None:
        """Return the rows of scales and shifts, of all that a program was given; None where none are."""
        if not self.norms:
            return None
        middle = self.mixing + self.norms
        return Affine(_rows_of(given[self.mixing : middle]), _rows_of(given[middle : self.all]))


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
    def shares(self) -> list[Share]:
        """The share of every step, each beginning where that of the step before ended."""
        shares, ends = [], [self.n_inputs, 0, 0, 0, 0]

        def take(which: int, n: int) -> slice:
            begin, ends[which] = ends[which], ends[which] + n
            return slice(begin, ends[which])

        for step in self.steps:
            n_norms = len(step.plan.normalised) if isinstance(step, Step) else 0
            kinds = zip((0, 1, 2, 3, 3, 4), (*step.counts, n_norms), strict=True)
            shares.append(Share(*(take(which, n) for which, n in kinds)))
        return shares

    @cached_property
    def norm_parts(self) -> list[slice]:
        """The units with a BatchNorm whose scales and shifts are given together: those of a step that sums, or one."""
        found: list[slice] = []
        for step, share in zip(self.steps, self.shares, strict=True):
            rows = range(share.norms.start, share.norms.stop)
            if isinstance(step, Step) and step.plan.summed:
                found += [share.norms] if rows else []
            else:
                found += [slice(row, row + 1) for row in rows]
        return found

    def reached(self, parts: Parts, by_outputs: Sequence[bool]) -> list[bool]:
        """Return what outputs depend on: mixing weights, scales, shifts, inputs, weights and projections, all in a row.

        Args:
            parts: Of the first three.
            by_outputs: Which outputs, of those that are returned.
        """
        every = ([self.outputs] if self.outputs else []) + [(image,) for image in self.apart]
        images = {image for given, asked in zip(every, by_outputs, strict=True) if asked for image in given}
        weights: list[bool] = []  # from the last to the first
        projections: list[bool] = []
        sums: list[bool] = []
        norms: list[bool] = []
        for step, share in zip(reversed(self.steps), reversed(self.shares), strict=True):
            made = [image in images for image in range(share.images.start, share.images.stop)]
            if not isinstance(step, Step):
                images.update(step.reads if any(made) else ())
                projections += [any(made)] * (share.projections.stop - share.projections.start)
                continue
            plan = step.plan
            units = list(zip(plan.units, made * len(plan.units) if plan.summed else made, strict=True))
            images.update(step.reads[unit.input] for unit, asked in units if asked)
            weights += [asked for unit, asked in reversed(units) if unit.geometry is not None]
            projections += [asked for unit, asked in reversed(units) if unit.projected]
            sums += made if plan.summed else []
            norms += made[::-1] if plan.normalised else []
        mixing = [True] if parts.mixing == 1 else sums[::-1]
        affine = norms[::-1] * 2 if parts.norms else []
        inputs = [image in images for image in range(self.n_inputs)]
        return [*mixing, *affine, *inputs, *weights[::-1], *projections[::-1]]

    def split(self, items: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any], Sequence[Any]]:
        """Return what belongs to the inputs, the weights of convolutions and the projections, from all in a row."""
        weights = self.n_inputs + self.shares[-1].weights.stop
        return items[: self.n_inputs], items[self.n_inputs : weights], items[weights:]


class Affine(NamedTuple):
    """What BatchNorms do behind normalising, (K, O) each, a row for each unit with one; or (O,) each, of one unit."""

    scale: Tensor
    shift: Tensor


def line_of(plan: Plan, mixing: Tensor, affine: Affine | None, share: Share) -> tuple[Tensor | None, Tensor | None]:
    """By what the outputs of a step's BatchNorms are multiplied, (T, 1) or (T, O), and what is added to these, or to
    their sum, (T, O) or (1, O); None for nothing."""
    if not plan.normalised:
        return None, None
    if affine is not None:
        shift = affine.shift[share.norms]
        return affine.scale[share.norms], shift.sum(0, True) if plan.summed and not plan.has_factors else shift
    return mixing[share.terms].unsqueeze(1) if plan.summed else mixing.new_ones(len(plan.normalised), 1), None


def whole(parts: Sequence[Tensor]) -> Tensor:
    """Return mixing weights in a row."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _rows_of(parts: Sequence[Tensor]) -> Tensor:
    """Return scales, or shifts, as rows."""
    return torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])


def given_out(program: Program, images: Sequence[Tensor]) -> list[Tensor]:
    """The outputs of a program, of its images."""
    whole = [images[i] for i in program.outputs]
    joined = [torch.cat(whole, dim=1)] if len(whole) > 1 else whole
    return joined + [images[i] for i in program.apart]


def gradients_of_images(program: Program, by_outputs: Sequence[Tensor | None]) -> dict[int, Tensor]:
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
