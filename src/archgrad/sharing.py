"""The state of a run on many processes: what each has for itself, and where a run of another number goes on."""

from __future__ import annotations

from typing import Any

import numpy as np

from archgrad.distributed import broadcast_bytes, gather_bytes, rank, world_size
from archgrad.runs import pack_state, seed_everything, unpack_state

__all__ = ["describe_move", "gather_parts", "moved_step", "seed_for_rank", "send_state"]


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
