"""Laws of batches read by worker processes from any map-style data set."""

import multiprocessing
import os
import random
import signal
import time
from collections import namedtuple
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from archgrad.data import InfiniteLoader, evaluation_batches
from archgrad.errors import DataError


class Random(Dataset):
    """Sample i is i plus random numbers of all three global generators."""

    def __init__(self, count: int = 23) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.tensor([index, random.random(), np.random.rand(), float(torch.rand(()))]), index


class Broken(Random):
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index == 7:
            raise FileNotFoundError("no file seven.jpg")
        return super().__getitem__(index)


class Endless(Random):
    """Counts how many samples have been asked for."""

    asked = multiprocessing.Value("i", 0)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        with self.asked.get_lock():
            self.asked.value += 1
        return super().__getitem__(index)


def batches_of(stream: InfiniteLoader, count: int, start: int = 0) -> list[tuple[Tensor, Tensor]]:
    return list(islice(stream.batches(start), count))


def equal(first: list[tuple[Tensor, Tensor]], second: list[tuple[Tensor, Tensor]]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(first, second, strict=True)
    )


def test_random_transforms_do_not_depend_on_the_number_of_workers_or_the_global_generators():
    results = []
    for workers in (0, 1, 2):
        random.seed(workers), np.random.seed(workers), torch.manual_seed(workers)
        with InfiniteLoader(Random(), batch_size=4, seed=1, workers=workers) as stream:
            results.append(batches_of(stream, 2 * stream.batches_per_epoch))
    assert equal(results[0], results[1])
    assert equal(results[0], results[2])
    noise = torch.cat([inputs[:, 1:] for inputs, _ in results[0]])
    assert len(noise.unique(dim=0)) == len(noise)  # a new number for each sample of each epoch


def test_the_global_generators_go_on_as_if_nothing_had_been_read():
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    expected = (random.random(), np.random.rand(), float(torch.rand(())))
    for workers in (0, 1):
        random.seed(0), np.random.seed(0), torch.manual_seed(0)
        with InfiniteLoader(Random(), batch_size=4, seed=1, workers=workers) as stream:
            batches_of(stream, 3)
        assert (random.random(), np.random.rand(), float(torch.rand(()))) == expected


@pytest.mark.parametrize("workers", [0, 2])
def test_going_on_from_batch_k_gives_the_tail(workers):
    with InfiniteLoader(Random(), batch_size=4, seed=1) as stream:
        expected = batches_of(stream, 15)
    with InfiniteLoader(Random(), batch_size=4, seed=1, workers=workers) as stream:
        assert equal(batches_of(stream, 4, start=11), expected[11:])
        assert equal(batches_of(stream, 4, start=2), expected[2:6])  # back, on the same stream


def test_the_parts_of_two_ranks_are_the_batch_of_one_process():
    whole = batches_of(InfiniteLoader(Random(24), batch_size=8, seed=1), 4)
    both = (InfiniteLoader(Random(24), batch_size=4, seed=1, rank=rank, world_size=2) for rank in (0, 1))
    ranks = [batches_of(loader, 4) for loader in both]
    for (inputs, _), first, second in zip(whole, *ranks, strict=True):
        assert torch.equal(inputs, torch.cat([first[0], second[0]]))


def test_workers_start_once_and_stay_over_epochs():
    with InfiniteLoader(Random(), batch_size=4, seed=1, workers=2) as stream:
        batches_of(stream, 1)
        processes = {child.pid for child in multiprocessing.active_children()}
        position = 1
        for _ in range(3):
            position += len(batches_of(stream, stream.batches_per_epoch, start=position))
        assert {child.pid for child in multiprocessing.active_children()} == processes
        assert len(processes) == 2


def test_closing_ends_the_workers_and_the_stream():
    before = {child.pid for child in multiprocessing.active_children()}
    stream = InfiniteLoader(Random(), batch_size=4, seed=1, workers=2)
    batches = stream.batches()
    next(batches)
    assert {child.pid for child in multiprocessing.active_children()} > before
    stream.close()
    assert {child.pid for child in multiprocessing.active_children()} == before
    with pytest.raises(DataError, match="closed"):
        next(batches)


def test_reading_ahead_is_bounded_though_batches_are_endless():
    Endless.asked.value = 0
    with InfiniteLoader(Endless(), batch_size=4, seed=1, workers=1) as stream:
        batches_of(stream, 1)
        time.sleep(0.3)
        assert 4 <= Endless.asked.value <= 4 * (1 + 2 + 1)  # read, two batches ahead, one in hand


def test_two_readers_of_one_stream_do_not_disturb_each_other():
    with InfiniteLoader(Random(), batch_size=4, seed=1) as stream:
        expected = batches_of(stream, 6)
    with InfiniteLoader(Random(), batch_size=4, seed=1, workers=1) as stream:
        first, second = stream.batches(), stream.batches(3)
        got = [next(first), next(second), next(first), next(second)]
    assert equal(got, [expected[0], expected[3], expected[1], expected[4]])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_cannot_be_read_is_one_clear_error(workers):
    stream = InfiniteLoader(Broken(), batch_size=23, seed=1, workers=workers)
    with stream, pytest.raises(DataError) as caught:
        batches_of(stream, 1)
    assert str(caught.value).startswith("Sample 7 cannot be read: no file seven.jpg.")
    assert "Traceback" not in str(caught.value)


def test_ctrl_c_and_a_first_sigterm_to_all_processes_leave_the_workers_to_the_run():
    with InfiniteLoader(Random(), batch_size=4, seed=1) as stream:
        expected = batches_of(stream, 12)
    with InfiniteLoader(Random(), batch_size=4, seed=1, workers=1) as stream:
        batches = stream.batches()
        got = [next(batches)]
        (child,) = multiprocessing.active_children()
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(child.pid, number)
        got += list(islice(batches, 11))
        assert equal(got, expected)
        with pytest.raises((DataError, RuntimeError), match="DataLoader worker"):  # noqa: PT012
            os.kill(child.pid, signal.SIGTERM)
            child.join(timeout=10)  # torch may speak already here, when it hears of the child's end
            list(islice(batches, 20))
        child.join(timeout=10)
        assert child.exitcode == 128 + signal.SIGTERM


def test_a_killed_worker_is_one_clear_error():
    with InfiniteLoader(Random(), batch_size=4, seed=1, workers=1) as stream:
        batches = stream.batches()
        next(batches)
        (child,) = multiprocessing.active_children()
        with pytest.raises((DataError, RuntimeError), match="DataLoader worker"):  # noqa: PT012
            child.kill()
            child.join()
            list(islice(batches, 20))


Pair = namedtuple("Pair", "left right")


class Nested(Dataset):
    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> tuple[dict[str, object], float]:
        value = torch.full((2,), float(index))
        return {"table": value, "pair": Pair(value, [value, value])}, float(index)


@pytest.mark.parametrize("workers", [0, 1])
def test_nested_inputs_keep_their_structure(workers):
    (inputs, targets), *_ = evaluation_batches(Nested(), batch_size=4, workers=workers)
    assert inputs["table"].shape == (4, 2)
    assert isinstance(inputs["pair"], Pair)
    assert inputs["pair"].right[1].shape == (4, 2)
    assert targets.tolist() == [0, 1, 2, 3]


class Shapes(Random):
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.zeros(index + 1), index


class NotFinite(Random):
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.tensor([float("nan") if index == 5 else 0.0]), index


class NotPairs(Random):
    def __getitem__(self, index: int) -> Tensor:  # type: ignore[override]
        return torch.zeros(3)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (Shapes(), "cannot be joined.*ToTensor"),
        (NotFinite(), "must be finite"),
        (NotPairs(), r"must be a pair \(input, target\), but sample \d+ of NotPairs is a Tensor"),
    ],
)
@pytest.mark.parametrize("workers", [0, 1])
def test_samples_that_make_no_batch_are_refused_where_they_are_met(samples, message, workers):
    with (
        InfiniteLoader(samples, batch_size=23, seed=0, workers=workers) as stream,
        pytest.raises(DataError, match=message),
    ):
        batches_of(stream, 1)


def test_evaluation_with_workers_is_in_order_and_leaves_no_process(tmp_path: Path):
    before = {child.pid for child in multiprocessing.active_children()}
    batches = list(evaluation_batches(Random(), batch_size=5, workers=2, rank=1, world_size=2))
    assert torch.cat([targets for _, targets in batches]).tolist() == list(range(11, 23))
    assert {child.pid for child in multiprocessing.active_children()} == before
