"""One pass through a supernet: its arguments, its recording, and how far two of them are apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from archgrad.alphas import PassDraw
from archgrad.bilevel.graph_capture import Packed, Recorder
from archgrad.bilevel.passes import Batch, Loss, Pass, differentiate
from archgrad.supernet import Supernet

__all__ = ["Call", "Recording", "apart", "draw_on", "relative", "tensors_of"]


@dataclass(frozen=True)
class Call:
    """The arguments of `differentiate`, and the draw."""

    batch: Batch
    loss: Loss
    wrt: Sequence[Tensor]
    weights: Mapping[str, Tensor] | None
    draw: PassDraw

    def tensors(self) -> list[Tensor]:
        """Everything that may be another tensor in the next pass of the kind."""
        leaves = tree_flatten(tuple(self.batch))[0]
        weights = [] if self.weights is None else self.weights.values()
        return [x for x in (*leaves, *tree_leaves(self.draw), *weights) if isinstance(x, Tensor)]

    def moved(self, device: torch.device) -> Call:
        """The same with these tensors copied, to `device`."""
        leaves, spec = tree_flatten(tuple(self.batch))
        batch = tree_unflatten([copied(x, device) for x in leaves], spec)
        draw = draw_on(self.draw, device)
        if self.weights is None:
            return Call(batch, self.loss, self.wrt, None, draw)
        weights = {name: copied(x, device) for name, x in self.weights.items()}
        places = {id(old): weights[name] for name, old in self.weights.items()}
        return Call(batch, self.loss, [places.get(id(x), x) for x in self.wrt], weights, draw)

    def run(self, supernet: Supernet) -> Pass:
        """Do the pass, in Python."""
        with supernet.same_draw(self.draw):
            return differentiate(supernet, self.batch, self.loss, self.wrt, self.weights)


@dataclass
class Recording:
    """A pass that can be done again."""

    inputs: list[Tensor]
    """Where it reads what `Call.tensors` gives."""
    replay: Callable[[], None]
    results: Packed
    """Where it leaves what `tensors_of` gives."""
    as_pass: Callable[[list[Tensor]], Pass]
    uses: int = 0

    def again(self, call: Call) -> Pass:
        """Do the pass with other inputs."""
        with torch.no_grad():
            torch._foreach_copy_(self.inputs, call.tensors())
        self.replay()
        return self.as_pass(self.results.copies())

    @classmethod
    def of(cls, call: Call, found: Pass, supernet: Supernet, recorder: Recorder) -> Recording:
        """Record a pass.

        Args:
            call: Its arguments.
            found: What it gives.
            supernet: The supernet that it goes through.
            recorder: Records.
        """
        own = call.moved(found.loss.device)
        places = [place for place, gradient in enumerate(found.gradients) if gradient is not None]
        asked = len(found.gradients)
        leaves, spec = tree_flatten(found.outputs)
        holes = [isinstance(leaf, Tensor) for leaf in leaves]
        others = [None if hole else leaf for hole, leaf in zip(holes, leaves, strict=True)]  # keep no tensor of `found`
        results = Packed(tensors_of(found))

        def run() -> None:
            results.fill(tensors_of(own.run(supernet)))

        def as_pass(tensors: list[Tensor]) -> Pass:
            gradients: list[Tensor | None] = [None] * asked
            for place, gradient in zip(places, tensors[1:], strict=False):
                gradients[place] = gradient
            values = iter(tensors[1 + len(places) :])
            outputs = [next(values) if hole else leaf for hole, leaf in zip(holes, others, strict=True)]
            return Pass(gradients, tensors[0], tree_unflatten(outputs, spec))

        with _no_cached_casts():
            run()  # libraries choose their ways the first time
            replay = recorder.record(run)
        return cls(own.tensors(), replay, results, as_pass)


def draw_on(draw: PassDraw, device: torch.device) -> PassDraw:
    """Return a copy of a draw on `device`."""
    return cast(PassDraw, tree_map(lambda x: copied(x, device), draw))


def copied(x: Any, device: torch.device) -> Any:
    """Return a leaf of its own on `device`; what is no tensor as it is."""
    return x.detach().to(device, copy=True).requires_grad_(x.requires_grad) if isinstance(x, Tensor) else x


def tensors_of(found: Pass) -> list[Tensor]:
    """The loss, the gradients that there are, and the outputs."""
    outputs = [leaf for leaf in tree_flatten(found.outputs)[0] if isinstance(leaf, Tensor)]
    return [found.loss, *(gradient for gradient in found.gradients if gradient is not None), *outputs]


def apart(found: Pass, expected: Pass) -> float:
    """How far two passes are apart, in what is furthest apart of them."""
    pairs = ((found.loss, expected.loss), (found.gradients, expected.gradients), (found.outputs, expected.outputs))
    return max(relative(tree_flatten(a)[0], tree_flatten(b)[0]) for a, b in pairs)


def relative(found: Sequence[Any], expected: Sequence[Any]) -> float:
    """The relative difference in L2 norm over all tensors; whole numbers, and what is no tensor, must be equal."""
    gaps, size = [], []
    for a, b in zip(found, expected, strict=True):
        if isinstance(a, Tensor) != isinstance(b, Tensor):
            return math.inf
        if isinstance(b, Tensor) and b.is_floating_point():
            gaps.append((a - b).norm().double())
            size.append(b.norm().double())
        elif not (torch.equal(a, b) if isinstance(b, Tensor) else a == b):
            return math.inf
    if not gaps:
        return 0.0
    return float(torch.stack(gaps).norm() / torch.stack(size).norm().clamp_min(1e-30))


@contextmanager
def _no_cached_casts() -> Iterator[None]:
    """Let autocast cast weights anew at every use, so that a recording holds no cast of a weight as it was."""
    before = torch.is_autocast_cache_enabled()
    torch.clear_autocast_cache()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)
