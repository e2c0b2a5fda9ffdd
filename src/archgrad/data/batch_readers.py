"""Where batches come from: tensors in memory, or any data set read by worker processes."""

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from archgrad.data.batch_sampler import BatchPlan, BatchSampler
from archgrad.data.samples import Collate, TensorSamples, check_finite, collate_of, pair_of
from archgrad.data.seeds import kept_randomness, seed_global_generators, seed_of
from archgrad.errors import DataError
from archgrad.nested import branches, is_structure, map_tensors, rebuilt, tensors_in


class BatchReader(Protocol):
    """Gives batch after batch, and any batch when asked for its number."""

    def read(self, plan: BatchPlan) -> tuple[Any, Any]:
        """Return (inputs, targets) of the planned batch on the device."""
        ...

    def close(self) -> None:
        """Free what the feed holds."""
        ...


class MemoryReader:
    """Batches of samples in memory: one gather each, on the device itself where the samples fit there."""

    def __init__(self, samples: TensorSamples, device: torch.device) -> None:
        self._samples, self._device = samples, device

    def read(self, plan: BatchPlan) -> tuple[Any, Tensor]:
        """Gather the planned samples."""
        resident = self._samples.tensors_on(self._device)
        if resident is None:
            batch = self._gathered((self._samples.inputs, self._samples.targets), plan.indices)
            if self._device.type == "cuda":
                batch = map_tensors(batch, Tensor.pin_memory)
            return to_device(batch[0], self._device), to_device(batch[1], self._device)
        return self._gathered(resident, plan.indices.to(self._device, non_blocking=True))

    @staticmethod
    def _gathered(samples: tuple[Any, Tensor], indices: Tensor) -> tuple[Any, Tensor]:
        inputs, targets = samples
        return map_tensors(inputs, lambda tensor: tensor.index_select(0, indices)), targets.index_select(0, indices)

    def close(self) -> None:
        """Nothing to free: the samples belong to the data."""


class WorkerReader:
    """Batches of any map-style data set, read ahead by persistent worker processes.

    Before a sample is read, Python's, NumPy's and torch's generators are seeded from the seed, the batch number and the
    sample's place in the batch; so a data set's own random transforms give the same whatever the number of workers, and
    any batch can be read again alone.

    Args:
        samples: A map-style data set of (input, target) pairs; an input may be a tensor, or tuples and dicts of
            tensors.
        order: Numbers the batches.
        seed: At least 0.
        workers: Number of worker processes; 0 reads in this process.
        device: Where the batches are used.
    """

    def __init__(self, samples: Dataset, order: BatchSampler, *, seed: int, workers: int, device: torch.device) -> None:
        self._device = device
        self._requests = _Requests(order)
        self._loader: DataLoader | None = DataLoader(
            _CollatedBatches(samples, seed),
            batch_size=None,
            sampler=self._requests,
            num_workers=workers,
            collate_fn=_unchanged,
            pin_memory=device.type == "cuda",
            persistent_workers=workers > 0,
            worker_init_fn=_leave_signals_to_the_parent,
            generator=torch.Generator().manual_seed(0),  # else each iterator would draw from the global generator
        )
        self._iterator: Iterator[Any] | None = None
        self._next = -1

    def read(self, plan: BatchPlan) -> tuple[Any, Any]:
        """Return the planned batch; a number out of turn makes the workers start again from there."""
        if self._loader is None:
            raise DataError("The batches were closed, so none can be read. Make a new stream.")
        try:
            if self._iterator is None or plan.number != self._next:
                self._requests.start = plan.number
                self._iterator = iter(self._loader)
            batch = next(self._iterator)
        except RuntimeError as error:
            self._iterator = None
            if "DataLoader worker (pid" in str(error):  # torch's words for a worker that died, not for an error in one
                raise DataError(
                    f"A data worker process ended while batch {plan.number} was read: {error}. {_cause()}"
                ) from error
            raise
        if isinstance(batch, _Refusal):
            self._iterator = None
            raise DataError(batch.message)
        self._next = plan.number + 1
        inputs, targets = batch
        return to_device(inputs, self._device), to_device(targets, self._device)

    def close(self) -> None:
        """Shut the workers down."""
        # The loader's iterator stops its processes when the last reference goes.
        self._iterator = None
        self._loader = None


def to_device(value: Any, device: torch.device) -> Any:
    """Move every tensor in nested tuples, lists and dicts to the device; from pinned memory without waiting.

    What has a method `to` of its own, such as a batch of graphs or a packed sequence, moves itself.
    """
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if callable(move := getattr(value, "to", None)):
        return move(device)
    if not is_structure(value):
        return value
    return rebuilt(value, [to_device(part, device) for _, part in branches(value)])


class _Requests(Sampler):
    """Batch plans from number `start` on; a plan is asked for only when a worker is to have it."""

    def __init__(self, order: BatchSampler) -> None:
        self._order = order
        self.start = 0

    def __iter__(self) -> Iterator[BatchPlan]:
        number = self.start
        while (plan := self._order.plan(number)) is not None:
            yield plan
            number += 1


class _Refusal:
    """A DataError on its way from a worker; raised there, it would arrive inside a long traceback text."""

    def __init__(self, message: str) -> None:
        self.message = message


class _CollatedBatches(Dataset):
    """Whole batches as items, read reproducibly."""

    def __init__(self, samples: Dataset, seed: int) -> None:
        self._samples, self._seed, self._collate = samples, seed, collate_of(samples)

    def __getitem__(self, plan: BatchPlan) -> Any:
        pairs = []
        try:
            with kept_randomness():
                for place, index in enumerate(plan.indices.tolist(), start=plan.first):
                    seed_global_generators(seed_of(self._seed, "sample", plan.number, place))
                    pairs.append(pair_of(self._samples, index))
            batch = _collate(pairs) if self._collate is None else _collated_by(self._collate, pairs)
            _check_all_finite(batch, plan)
        except DataError as error:
            return _Refusal(str(error))
        return batch


def _collate(pairs: list[tuple[Any, Any]]) -> tuple[Any, Any]:
    try:
        inputs, targets = (_collated(column) for column in zip(*pairs, strict=True))
    except (TypeError, RuntimeError, KeyError, ValueError) as error:
        raise DataError(
            f"The samples of a batch cannot be joined: {error}. Give tensors of one shape (for images, for example, "
            f"transform=torchvision.transforms.ToTensor())."
        ) from error
    return inputs, targets


def _collated_by(collate: Collate, pairs: list[tuple[Any, Any]]) -> tuple[Any, Any]:
    """Return what a caller's function makes of the samples."""
    batch = collate(pairs)
    name = getattr(collate, "__name__", type(collate).__name__)
    if not isinstance(batch, tuple | list) or len(batch) != 2 or not isinstance(batch[1], Tensor) or not batch[1].ndim:
        found = [type(part).__name__ for part in batch] if isinstance(batch, tuple | list) else type(batch).__name__
        raise DataError(
            f"A collate function must return (inputs, targets), with a tensor of targets, but {name} returned {found}. "
            f"Join the targets to one tensor, padded where they are of unequal lengths."
        )
    return batch[0], batch[1]


def _collated(values: Sequence[Any]) -> Any:
    """Return what `default_collate` gives, with structures of any type kept, and None where all are None."""
    first = values[0]
    if not is_structure(first):
        return None if all(value is None for value in values) else default_collate(list(values))
    keys = [key for key, _ in branches(first)]
    for value in values:
        if not is_structure(value) or len(value) != len(keys) or [key for key, _ in branches(value)] != keys:
            raise TypeError(f"one has the parts {keys}, another {_parts_of(value)}")
    return rebuilt(first, [_collated([value[key] for value in values]) for key in keys])


def _parts_of(value: Any) -> Any:
    return [key for key, _ in branches(value)] if is_structure(value) else type(value).__name__


def _check_all_finite(value: Any, plan: BatchPlan) -> None:
    for tensor in tensors_in(value):
        check_finite(tensor, f"values (batch {plan.number}, samples {plan.indices.tolist()})")


def _cause() -> str:
    """Tell what often ends a worker."""
    guard = "the script has no main guard (put what starts the run under `if __name__ == '__main__':`), or "
    return (
        f"Often {'' if multiprocessing.get_start_method() == 'fork' else guard}memory ran out: give fewer workers (0 "
        f"reads in the main process)."
    )


def _unchanged(batch: Any) -> Any:
    return batch


def _leave_signals_to_the_parent(worker: int) -> None:
    """Let a run finish its step after Ctrl-C, or a SIGTERM to all its processes; a second SIGTERM ends the worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    received = 0

    def on_terminate(number: int, frame: Any) -> None:
        nonlocal received
        received += 1
        if received > 1:
            os._exit(128 + number)

    signal.signal(signal.SIGTERM, on_terminate)
