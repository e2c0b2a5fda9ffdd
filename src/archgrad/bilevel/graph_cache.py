"""Passes recorded as CUDA graphs: Python prepares a pass once, and from then on the device does it again alone.

A pass of a supernet is thousands of small operations, which a GPU runs faster than Python can name them. What a pass
does depends on little: shapes, which gradients are asked for, and settings. So each kind of pass is run once as usual,
recorded, and done again from the recording, with its batch, draw and weights copied to where the recording reads them;
weights, alphas and running statistics it reads and moves where they lie. Before a recording is used, and now and then
later, it is held to the pass as it runs. What cannot be recorded, or does otherwise when done again, runs as usual.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _NormBase
from torch.utils._pytree import tree_flatten

from archgrad.batches import count
from archgrad.bilevel.graph_capture import CudaRecorder, Obstacles, Recorder
from archgrad.bilevel.graph_recording import Call, Recording, apart, draw_on, relative, tensors_of
from archgrad.bilevel.passes import Batch, Loss, Pass, differentiate, passes_by, repeated_random
from archgrad.distributed.sync_batchnorm import is_synchronised
from archgrad.errors import OptionError
from archgrad.supernet import Supernet

__all__ = ["check_recordable", "cuda_graphs", "recorded_passes"]

_TAKEN = (Tensor, type(None), bool, int, float, str, bytes)
"""What may stand in a batch."""
_MOST = 16
"""Recordings that are kept; the one that was used longest ago makes room."""
_HELD_EVERY = 500
"""Uses of a recording after which it is held to the pass again."""
_TOLERANCE = 0.02
"""Largest relative difference between a pass and its recording. Both compute the same; but a GPU adds in any order, and
half precision rounds much."""


def check_recordable(supernet: Supernet, device: torch.device) -> None:
    """Check that CUDA graphs of this supernet's passes can be made.

    Raises:
        OptionError: They cannot.
    """
    if device.type != "cuda":
        raise OptionError(f"cuda_graphs needs a CUDA device, but the supernet is on '{device}'.")
    if supernet.recomputes:
        raise OptionError("cuda_graphs does not go with activation_checkpointing. Leave one of the two out.")
    if any(map(is_synchronised, supernet.network.modules())):
        raise OptionError("cuda_graphs does not go with sync_batchnorm. Leave one of the two out.")


@contextmanager
def cuda_graphs(supernet: Supernet, *, say: Callable[[str], None] = print) -> Iterator[None]:
    """Let the passes of `search_step` and of bilevel steps inside be recorded as CUDA graphs, and done again.

    The first pass of a kind takes some seconds longer, and memory for a second pass. The exact second derivative is
    not recorded; the other passes of its step are. A module whose Python code does not do the same every time runs as
    usual. Where it changes later, as with a rate of dropout that is set by hand, up to 500 passes do what was recorded
    before that is noticed: set such things before this is entered.

    Args:
        supernet: On a CUDA device. Its weights, alphas and buffers may change in value, but stay where they are.
        say: Is told in a line what is recorded, and what cannot be.

    Raises:
        OptionError: See `check_recordable`.
    """
    device = next(iter(supernet.alphas.values())).device
    check_recordable(supernet, device)
    with recorded_passes(supernet, CudaRecorder(device), say):
        yield


@contextmanager
def recorded_passes(supernet: Supernet, recorder: Recorder, say: Callable[[str], None]) -> Iterator[None]:
    """`cuda_graphs` with any recorder."""
    with recorder.stream(), passes_by(_Recordings(supernet, recorder, say).differentiate):
        yield


class _Recordings:
    """The recordings of a supernet's passes, by kind."""

    def __init__(self, supernet: Supernet, recorder: Recorder, say: Callable[[str], None]) -> None:
        self._supernet, self._recorder, self._say = supernet, recorder, say
        self._device = next(iter(supernet.alphas.values())).device
        self._modules = list(supernet.modules())
        self._norms = [m for m in self._modules if isinstance(m, _NormBase)]
        self._recordings: OrderedDict[Hashable, Recording] = OrderedDict()
        self._refused: set[str] = set()
        self._find_parameters()

    def _find_parameters(self) -> None:
        self._parameters = list(self._supernet.parameters())
        self._numbers = {id(p): number for number, p in enumerate(self._parameters)}
        self._addresses = [p.data_ptr() for p in self._parameters]

    def differentiate(
        self,
        supernet: Supernet,
        batch: Batch,
        loss: Loss,
        wrt: Sequence[Tensor],
        weights: Mapping[str, Tensor] | None,
    ) -> Pass:
        """Stand in for `passes.differentiate`."""
        draw = supernet.held_draw
        if supernet is not self._supernet or draw is None:
            return differentiate(supernet, batch, loss, wrt, weights)
        call = Call(batch, loss, wrt, weights, draw_on(draw, self._device))
        if [p.data_ptr() for p in self._parameters] != self._addresses or not self._all_known(call):
            self._find_parameters()  # the supernet was moved, or given other parameters
            self._recordings.clear()
        name = self._name(call)
        if name in self._refused:
            return call.run(supernet)
        if not all(isinstance(x, _TAKEN) for x in tree_flatten(tuple(batch))[0]):
            self._refuse(name, "the batch holds other things than tensors and plain numbers")
            return call.run(supernet)
        key = self._kind(call)
        recording = self._recordings.get(key)
        if recording is None:
            return self._record(key, name, call)
        self._recordings.move_to_end(key)
        recording.uses += 1
        return recording.again(call) if recording.uses % _HELD_EVERY else self._hold_again(key, name, call, recording)

    def _all_known(self, call: Call) -> bool:
        given = {id(x) for x in (call.weights or {}).values()}
        return all(id(x) in self._numbers or id(x) in given for x in call.wrt)

    def _name(self, call: Call) -> str:
        """What is differentiated by, in words."""
        alphas = {id(alpha) for alpha in self._supernet.alphas.values()}
        found = {id(x) in alphas for x in call.wrt}
        words = " and ".join(word for word, is_alpha in (("weights", False), ("alphas", True)) if is_alpha in found)
        return f"the pass for {words}" + (", at other weights" if call.weights is not None else "")

    def _kind(self, call: Call) -> Hashable:
        """Everything that decides what the pass does, beside the values of tensors."""
        leaves, spec = tree_flatten(tuple(call.batch))
        given = {id(x): name for name, x in (call.weights or {}).items()}
        drawn, drawn_spec = tree_flatten(call.draw)
        kind = self._device.type
        return (
            str(spec),
            str(drawn_spec),
            tuple(_shape(x) for x in (*leaves, *drawn)),
            call.loss,
            tuple([given.get(id(x)) or self._numbers[id(x)] for x in call.wrt]),
            tuple([(name, x.requires_grad) for name, x in (call.weights or {}).items()]),
            tuple([p.requires_grad for p in self._parameters]),
            tuple([module.training for module in self._modules]),
            tuple([norm.track_running_stats for norm in self._norms]),
            _Same(self._supernet.relaxation),
            _Same(self._supernet.perturbation),
            tuple(sorted(self._supernet.kept.items())),
            tuple(sorted(self._supernet.switched_off.items())),
            torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind),
        )

    def _record(self, key: Hashable, name: str, call: Call) -> Pass:
        """Run the pass as usual, record it for later, and hold the recording to what it gave."""
        begin = time.perf_counter()

        def make(found: Pass) -> Recording:
            self._say(f"Warming up: {name} of {count(call.batch[1])} samples is recorded as a CUDA graph.")
            return Recording.of(call, found, self._supernet, self._recorder)

        found, recording, why = self._hold(call, make)
        if why is not None:
            self._refuse(name, why)
        elif recording is not None:
            self._recordings[key] = recording
            while len(self._recordings) > _MOST:
                self._recordings.popitem(last=False)
            self._say(f"Recorded {name} in {time.perf_counter() - begin:.1f} s.")
        return found

    def _hold_again(self, key: Hashable, name: str, call: Call, recording: Recording) -> Pass:
        """Run the pass as usual, and hold its recording to what it gave."""
        found, _, why = self._hold(call, lambda _: recording)
        if why is not None:
            del self._recordings[key]
            self._say(f"{name.capitalize()} has changed since it was recorded ({why}), and is recorded anew.")
        return found

    def _hold(self, call: Call, make: Callable[[Pass], Recording]) -> tuple[Pass, Recording | None, str | None]:
        """Run a pass as usual and compare a recording of it.

        Returns:
            The pass; what `make` made of it, None if its results are not finite; and what is wrong, None if nothing is.
        """
        random = repeated_random(self._device)
        buffers = list(self._supernet.network.buffers())
        before = [buffer.clone() for buffer in buffers]
        with random, Obstacles() as obstacles:
            found = call.run(self._supernet)
        if obstacles.first is not None:
            return found, None, obstacles.first
        if any(a is not b for a, b in zip(buffers, self._supernet.network.buffers(), strict=False)):
            return found, None, "a module puts new buffers in the place of its old ones"
        if not all(bool(x.isfinite().all()) for x in tensors_of(found) if x.is_floating_point()):
            return found, None, None  # the caller's to deal with
        after = [buffer.clone() for buffer in buffers]
        try:
            with random:
                recording = make(found)
            _restore(buffers, before)
            with random:
                again = recording.again(call)
            difference = max(apart(again, found), relative(buffers, after))
        except RuntimeError as error:
            return found, None, str(error).partition("\n")[0]
        finally:
            _restore(buffers, after)
        agrees = difference <= _TOLERANCE
        return found, recording, None if agrees else f"done again it gives something else, by {100 * difference:.2g} %"

    def _refuse(self, name: str, why: str) -> None:
        self._refused.add(name)
        self._say(f"Cannot record {name} as a CUDA graph, and runs it as usual: {why}.")


class _Same:
    """Equal to itself alone. Relaxations and perturbations hold options only, so one object does one thing; what they
    hold need not be hashable, nor tell its values in `repr`."""

    def __init__(self, of: object) -> None:
        self._of = of

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self._of is other._of

    def __hash__(self) -> int:
        return id(self._of)


def _shape(x: Any) -> Hashable:
    return (x.shape, x.dtype, x.device) if isinstance(x, Tensor) else x


@torch.no_grad()
def _restore(buffers: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for buffer, value in zip(buffers, values, strict=True):
        buffer.copy_(value)
