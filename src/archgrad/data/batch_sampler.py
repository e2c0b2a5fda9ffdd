"""Which samples form batch number i, on one process or many."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from archgrad.data.seeds import generator_of
from archgrad.errors import DataError, OptionError
from archgrad.sizes import check_whole


@dataclass(frozen=True)
class BatchPlan:
    """The part of one batch that falls to one process."""

    number: int
    """Number of the batch, counted from 0 over all epochs."""

    indices: Tensor
    """(b,) int64, the samples."""

    first: int
    """Place of the first of them in the batch over all processes."""

    total: int
    """Number of samples of the batch over all processes."""


class BatchSampler(Protocol):
    """A numbering of batches."""

    def plan(self, number: int) -> BatchPlan | None:
        """Say what batch `number` holds; None after the last one."""
        ...


class TrainingSampler:
    """Endless batches, shuffled anew in each epoch; each follows from the seed and its number alone.

    A last batch that would leave a process with fewer than two samples is left out of the epoch, because BatchNorm
    cannot train on a single one.

    Args:
        indices: (N,) int64, the samples.
        batch_size: Samples a batch and process, at least 1.
        seed: At least 0.
        shuffle: False keeps the order of `indices` in each epoch.
        sampling_weights: (N,), at least 0 and not all 0: what an epoch takes is drawn with replacement, each sample the
            oftener the larger its weight; None takes each once.
        rank: Number of this process, in 0..world_size-1.
        world_size: Number of processes; each batch of batch_size * world_size samples is cut into contiguous parts.

    Raises:
        OptionError: A value is outside its range.
        DataError: There are fewer samples than one batch takes.
    """

    def __init__(
        self,
        indices: Tensor,
        *,
        batch_size: int,
        seed: int,
        shuffle: bool = True,
        sampling_weights: Tensor | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        check_whole("batch_size", batch_size, least=1)
        check_whole("seed", seed, least=0, most=2**64 - 1)
        check_ranks(rank, world_size)
        self._indices, self._seed, self._shuffle = indices, seed, shuffle
        self._rank, self._world_size = rank, world_size
        self._shares = None if sampling_weights is None else sampling_weights.double().cumsum(0)
        self._full = batch_size * world_size
        if len(indices) < self._full:
            processes = f" on each of {world_size} processes" if world_size > 1 else ""
            remedy = f"batch_size={len(indices) // world_size} or less, or " if len(indices) >= world_size else ""
            raise DataError(
                f"One batch takes {self._full} samples (batch_size={batch_size}{processes}), but the data has "
                f"{len(indices)}. Give {remedy}more data."
            )
        whole, rest = divmod(len(indices), self._full)
        self._last = rest if rest >= 2 * world_size else self._full
        self.batches_per_epoch = whole + (self._last == rest)
        self._shuffled: dict[int, Tensor] = {}

    @property
    def smallest_part(self) -> int:
        """Fewest samples that a process gets in a batch."""
        return min(self._full, self._last) // self._world_size

    def samples_in_batch(self, number: int) -> int:
        """Count the samples of a batch over all processes."""
        return self._last if (number + 1) % self.batches_per_epoch == 0 else self._full

    def plan(self, number: int) -> BatchPlan:
        """Say which samples of batch `number` fall to this process."""
        epoch, place = divmod(number, self.batches_per_epoch)
        total = self.samples_in_batch(number)
        first, end = part_of(total, self._rank, self._world_size)
        start = place * self._full
        return BatchPlan(number, self._indices_in(epoch)[start + first : start + end], first, total)

    def _indices_in(self, epoch: int) -> Tensor:
        if not self._shuffle:
            return self._indices
        if epoch not in self._shuffled:
            if len(self._shuffled) > 1:  # two are kept, as workers read ahead into the next epoch
                del self._shuffled[next(iter(self._shuffled))]
            self._shuffled[epoch] = self._indices[self._order_in(epoch)]
        return self._shuffled[epoch]

    def _order_in(self, epoch: int) -> Tensor:
        count, generator = len(self._indices), generator_of(self._seed, "order", epoch)
        if self._shares is None:
            return torch.randperm(count, generator=generator)
        draws = torch.rand(count, generator=generator, dtype=torch.float64) * self._shares[-1]
        return torch.searchsorted(self._shares, draws, right=True).clamp(max=count - 1)


class EvaluationSampler:
    """Every sample once, in order; each process takes a contiguous part, and none is left out.

    Args:
        indices: (N,) int64, the samples.
        batch_size: Samples a batch, at least 1; the last batch may be smaller.
        rank: Number of this process, in 0..world_size-1.
        world_size: Number of processes.

    Raises:
        OptionError: A value is outside its range.
    """

    def __init__(self, indices: Tensor, *, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        check_whole("batch_size", batch_size, least=1)
        check_ranks(rank, world_size)
        first, end = part_of(len(indices), rank, world_size)
        self._parts = indices[first:end].split(batch_size) if end > first else ()

    def plan(self, number: int) -> BatchPlan | None:
        """Say which samples batch `number` holds; None after the last one."""
        if number >= len(self._parts):
            return None
        return BatchPlan(number, self._parts[number], 0, len(self._parts[number]))


def part_of(total: int, rank: int, world_size: int) -> tuple[int, int]:
    """Cut `total` items into contiguous parts whose sizes differ by at most one; return (first, end) of part `rank`."""
    return total * rank // world_size, total * (rank + 1) // world_size


def check_ranks(rank: int, world_size: int) -> None:
    """Refuse a rank outside 0..world_size-1.

    Raises:
        OptionError: As said.
    """
    check_whole("world_size", world_size, least=1)
    if not 0 <= rank < world_size:
        raise OptionError(f"The rank must be in 0..{world_size - 1} (world_size={world_size}), but got rank={rank}.")
