"""The state of a run on many processes: what each has for itself, and where a run of another number goes on."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from archgrad.buffers import all_buffers, set_buffers
from archgrad.distributed import broadcast_bytes, gather_bytes, rank, world_size
from archgrad.runs import is_stored, pack_state, seed_everything, unpack_state

__all__ = [
    "describe_move", "gather_parts", "moved_step", "own_buffers", "place_buffers", "seed_for_rank", "send_state",
]  # fmt: skip


def own_buffers(network: nn.Module) -> dict[str, Tensor | None]:
    """Return every buffer of this process's network, those outside the state dict too, for `place_buffers`."""
    buffers = all_buffers(network)
    left_out = [name for name, buffer in buffers.items() if buffer is not None and not is_stored(buffer)]
    if left_out:
        warnings.warn(
            f"A checkpoint holds dense tensors only, so it is without the {_named(left_out)}. A run that is resumed "
            f"has the network's first values there.",
            UserWarning,
            stacklevel=2,
        )
    return {name: buffer for name, buffer in buffers.items() if name not in left_out}


def place_buffers(
    network: nn.Module, parts: Sequence[Mapping[str, Any]], names: Collection[str], *, device: torch.device
) -> None:
    """Give the buffers of a network the values of a checkpoint, before its state dict is loaded.

    Args:
        network: Of this process.
        parts: What each process had for itself; another number of processes goes on with process 0's buffers.
        names: Of the state dict in the checkpoint.
        device: Where the network computes.
    """
    buffers = (parts[rank()] if len(parts) == world_size() else parts[0]).get("buffers", {})
    missing = sorted(all_buffers(network).keys() - network.state_dict().keys() - buffers.keys())
    if missing and not buffers:
        warnings.warn(
            f"The checkpoint was written by an earlier archgrad, which did not keep the {_named(missing)} outside the "
            f"state dict. They begin anew, so that the resumed run may differ from one that was not interrupted.",
            UserWarning,
            stacklevel=2,
        )
    set_buffers(network, buffers, device=device, persistent=names)


def _named(buffers: Sequence[str]) -> str:
    more = f" and {len(buffers) - 3} more" if len(buffers) > 3 else ""
    return f"buffer{'s' if len(buffers) > 1 else ''} {', '.join(map(repr, buffers[:3]))}{more}"


def gather_parts(part: Any) -> list[Any]:
    """Return every process's part, by rank, on process 0, and an empty list on the others.

    Args:
        part: What a checkpoint can hold.
    """
    if world_size() == 1:
        return [part]
    return [unpack_state(data) for data in gather_bytes(pack_state(part))]


def send_state(state: Any) -> Any:
    """Return the state of process 0 on every process, so that only process 0 needs to see the run folder."""
    if world_size() == 1:
        return state
    return unpack_state(broadcast_bytes(pack_state(state) if rank() == 0 else None))


def seed_for_rank(seed: int, *place: int) -> None:
    """Seed the global generators, so that dropout and the like differ between the processes.

    Process 0 of a run that begins keeps the generators as they are, as does a single process.

    Args:
        seed: Of the run.
        place: Epoch and step at which a run goes on with another number of processes; nothing at its beginning.
    """
    if rank() > 0 or place:
        sequence = np.random.SeedSequence([seed, rank(), *place])
        seed_everything(int(sequence.generate_state(1)[0]))


def moved_step(step: int, *, batch_before: int, batches_before: int, batch: int, batches: int) -> int:
    """Return the step of an epoch where a run goes on whose batches have another size.

    No sample of the epoch is left out; a part of one batch may be seen twice.

    Args:
        step: Steps done.
        batch_before: Samples of each, over all processes.
        batches_before: Steps of an epoch until now.
        batch: Samples of each from now on.
        batches: Steps of an epoch from now on.
    """
    if step >= batches_before:
        return batches
    return min(step * batch_before // batch, batches)


def describe_move(before: int, *, epoch: int, step: int, batches: int) -> str:
    """Say that a run goes on with another number of processes.

    Args:
        before: Number of processes until now.
        epoch: Where it goes on, 0-based.
        step: Steps done in it.
        batches: Steps of the epoch from now on.
    """
    return (
        f"The run goes on with {world_size()} processes in place of {before}, in epoch {epoch + 1} "
        f"before step {step + 1} of {batches}. batch_size is that of each process, so a step now takes "
        f"{world_size() / before:g} times as many samples."
    )
