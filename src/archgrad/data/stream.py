"""Endless, resumable training batches, and evaluation batches in order."""

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from archgrad.batches import WeightedTargets
from archgrad.data.augment import BatchTransform, ImageTransform, are_masks
from archgrad.data.batch_readers import BatchReader, MemoryReader, WorkerReader
from archgrad.data.batch_sampler import BatchPlan, BatchSampler, EvaluationSampler, TrainingSampler
from archgrad.data.dataset import Data
from archgrad.data.samples import TensorSamples, as_samples, sample_weights_of, size_of
from archgrad.data.seeds import generator_of
from archgrad.errors import DataError
from archgrad.sizes import check_whole

MOST_WORKERS = 1024
"""Most processes that read data; each takes about 200 MB."""


class InfiniteLoader:
    """Endless training batches whose only state is a number.

    Batch i belongs to epoch `i // batches_per_epoch`. Everything random about it (which samples, augmentation, the data
    set's own random transforms) follows from `(seed, i)`, so a run goes on exactly from any batch, with any number of
    workers; and the parts of R processes are together the batch that one process would have.

    Args:
        samples: Map-style data set of (input, target) pairs; `TensorSamples` are gathered without worker processes.
        batch_size: Samples a batch and process, at least 1.
        seed: At least 0.
        indices: (n,) int64, the samples to use; all by default.
        shuffle: Draw a new order for each epoch.
        sampling_weights: (n,), at least 0, one for each of the indices: samples are drawn with replacement, each the
            oftener the larger its weight; None takes each once an epoch.
        transform: Applied to the inputs of each batch on the device, with its random numbers; an `ImageTransform` moves
            targets that are masks, (B, H, W) or (B, K, H, W) of the images' size, together with them.
        device: Where the batches are used.
        rank: Number of this process, in 0..world_size-1.
        world_size: Number of processes.
        workers: Processes that read a data set that is not in memory; 0 reads in this process.
        weighted: Give `archgrad.batches.WeightedTargets` in the place of targets, where samples have weights.

    Raises:
        OptionError: An option is outside its range.
        DataError: There are fewer samples than one batch takes, or an index is out of range.
    """

    def __init__(
        self,
        samples: Dataset,
        *,
        batch_size: int,
        seed: int,
        indices: Tensor | None = None,
        shuffle: bool = True,
        sampling_weights: Tensor | None = None,
        transform: BatchTransform | None = None,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        weighted: bool = False,
    ) -> None:
        check_whole("workers", workers, least=0, most=MOST_WORKERS)
        samples = as_samples(samples)
        checked = _checked_indices(samples, indices)
        self.samples = len(checked)
        """Number of samples that batches are drawn from."""
        self._order = TrainingSampler(
            checked,
            batch_size=batch_size,
            seed=seed,
            shuffle=shuffle,
            sampling_weights=sampling_weights,
            rank=rank,
            world_size=world_size,
        )
        self._weights = sample_weights_of(samples) if weighted else None
        self._seed = seed
        self._transform = transform
        self._feed = _feed_for(samples, self._order, seed=seed, workers=workers, device=_device(device))
        self.waiting_seconds = 0.0
        """Time that the consumer has spent waiting for batches."""

    @property
    def batches_per_epoch(self) -> int:
        """Number of batches in each epoch."""
        return self._order.batches_per_epoch

    @property
    def smallest_part(self) -> int:
        """Fewest samples that a process gets in a batch; BatchNorm over plain features cannot train on one."""
        return self._order.smallest_part

    def samples_in_batch(self, index: int) -> int:
        """Count the samples of batch `index` over all processes."""
        return self._order.samples_in_batch(index)

    def batches(self, start: int = 0) -> Iterator[tuple[Any, Any]]:
        """Yield this process's part of batch `start`, `start + 1`, ... without end.

        Asking again for the batch that would have come next costs nothing; another one makes the workers start from
        there.

        Args:
            start: Number of the first batch, at least 0.

        Yields:
            (inputs, targets) on the device.

        Raises:
            DataError: A sample cannot be read, does not fit the others, or is not finite.
        """
        check_whole("start", start, least=0, most=2**63 - 1)
        return self._batches(start)

    def _batches(self, number: int) -> Iterator[tuple[Any, Any]]:
        while True:
            began = time.perf_counter()
            plan = self._order.plan(number)
            inputs, targets = self._feed.read(plan)
            if self._transform is not None:
                draws = self._draws(plan, self._transform.draws_per_sample)
                if isinstance(self._transform, ImageTransform) and are_masks(targets, inputs):
                    inputs, targets = self._transform.with_masks(inputs, targets, draws)
                else:
                    inputs = self._transform(inputs, draws)
            targets = _with_weights(targets, self._weights, plan)
            self.waiting_seconds += time.perf_counter() - began
            yield inputs, targets
            number += 1

    def _draws(self, plan: BatchPlan, per_sample: int) -> Tensor:
        """Draw for the batch over all processes and keep this one's rows, whatever the number of processes."""
        generator = generator_of(self._seed, "augment", plan.number)
        draws = torch.rand(plan.total, per_sample, generator=generator, dtype=torch.float64)
        return draws[plan.first : plan.first + len(plan.indices)]

    def close(self) -> None:
        """Shut the worker processes down; no more batches can be read from a data set that is not in memory."""
        self._feed.close()

    def __enter__(self) -> "InfiniteLoader":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def evaluation_batches(
    samples: Dataset,
    *,
    batch_size: int,
    transform: BatchTransform | None = None,
    device: torch.device | str = "cpu",
    indices: Tensor | None = None,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    weighted: bool = False,
) -> Iterator[tuple[Any, Any]]:
    """Yield every sample once, in order, nothing left out.

    Args:
        samples: Map-style data set of (input, target) pairs.
        batch_size: Samples a batch, at least 1; the last batch may be smaller.
        transform: Applied to the inputs of each batch on the device, without randomness.
        device: Where the batches are used.
        indices: (n,) int64, the samples to use; all by default.
        rank: Number of this process; each takes a contiguous part of the samples, in order of rank.
        world_size: Number of processes.
        workers: Processes that read a data set that is not in memory; 0 reads in this process.
        weighted: As of `InfiniteLoader`.

    Returns:
        An iterator over (inputs, targets) on the device.

    Raises:
        OptionError: An option is outside its range.
        DataError: The data has no samples, an index is out of range, or a sample cannot be read.
    """
    check_whole("workers", workers, least=0, most=MOST_WORKERS)
    samples = as_samples(samples)
    checked = _checked_indices(samples, indices)
    order = EvaluationSampler(checked, batch_size=batch_size, rank=rank, world_size=world_size)
    feed = _feed_for(samples, order, seed=0, workers=workers, device=_device(device))
    return _evaluation_batches(order, feed, transform, sample_weights_of(samples) if weighted else None)


def first_inputs(data: Data, *, samples: int) -> Any:
    """Return the first training samples as a network gets them in an evaluation, at most all of them; (B, ...)."""
    return first_batch(data.train, samples=samples, transform=data.evaluation_transform())[0]


def first_batch(
    part: Dataset,
    *,
    samples: int,
    transform: BatchTransform | None = None,
    device: torch.device | str = "cpu",
    weighted: bool = False,
) -> tuple[Any, Any]:
    """Return (inputs, targets) of the first samples of a data set, at most all of them; see `evaluation_batches`."""
    indices = torch.arange(min(samples, size_of(part)))
    size = len(indices)
    (batch,) = evaluation_batches(
        part, batch_size=size, indices=indices, transform=transform, device=device, weighted=weighted
    )
    return batch


def _evaluation_batches(
    order: EvaluationSampler, feed: BatchReader, transform: BatchTransform | None, weights: Tensor | None
) -> Iterator[tuple[Any, Any]]:
    number = 0
    try:
        while (plan := order.plan(number)) is not None:
            inputs, targets = feed.read(plan)
            targets = _with_weights(targets, weights, plan)
            yield inputs if transform is None else transform(inputs, None), targets
            number += 1
    finally:
        feed.close()


def _with_weights(targets: Any, weights: Tensor | None, plan: BatchPlan) -> Any:
    if weights is None:
        return targets
    return WeightedTargets(targets, weights[plan.indices].to(targets.device, non_blocking=True))


def _feed_for(samples: Dataset, order: BatchSampler, *, seed: int, workers: int, device: torch.device) -> BatchReader:
    if isinstance(samples, TensorSamples):
        return MemoryReader(samples, device)
    return WorkerReader(samples, order, seed=seed, workers=workers, device=device)


def _device(device: torch.device | str) -> torch.device:
    device = torch.device(device)
    if device.type == "cuda" and device.index is None:  # tensors name their device by number
        return torch.device("cuda", torch.cuda.current_device())
    return device


def _checked_indices(samples: Dataset, indices: Tensor | None) -> Tensor:
    count = size_of(samples)
    if indices is None:
        return torch.arange(count)
    if indices.ndim != 1 or indices.is_floating_point() or not len(indices):
        raise DataError(
            f"Sample indices must be a non-empty list of whole numbers, but got {indices.dtype} of shape "
            f"{tuple(indices.shape)}."
        )
    low, high = int(indices.min()), int(indices.max())
    if low < 0 or high >= count:
        raise DataError(f"Sample indices must be in 0..{count - 1}, but they reach from {low} to {high}.")
    return indices.to("cpu", torch.int64)
