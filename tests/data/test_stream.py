"""Laws of training and evaluation batches from memory: what is in batch i, on how many processes soever."""

from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from archgrad.data import Augmentation, Data, InfiniteLoader, TensorSamples, evaluation_batches
from archgrad.errors import DataError, OptionError


def numbered(count: int) -> TensorSamples:
    """Sample i has the input [i] and the target i."""
    return TensorSamples(torch.arange(count, dtype=torch.float32)[:, None], torch.arange(count))


def targets_in(stream: InfiniteLoader, count: int, start: int = 0) -> list[list[int]]:
    return [targets.tolist() for _, targets in islice(stream.batches(start), count)]


@settings(max_examples=60)
@given(count=st.integers(1, 60), batch_size=st.integers(1, 9), ranks=st.integers(1, 4), seed=st.integers(0, 9))
def test_over_all_ranks_an_epoch_has_every_sample_at_most_once_and_leaves_out_only_a_tiny_last_batch(
    count, batch_size, ranks, seed
):
    full = batch_size * ranks
    if count < full:
        with pytest.raises(DataError, match=f"takes {full} samples .* has {count}"):
            InfiniteLoader(numbered(count), batch_size=batch_size, seed=seed, world_size=ranks)
        return
    streams = [
        InfiniteLoader(numbered(count), batch_size=batch_size, seed=seed, rank=rank, world_size=ranks)
        for rank in range(ranks)
    ]
    parts = [targets_in(stream, stream.batches_per_epoch) for stream in streams]
    for number, of_ranks in enumerate(zip(*parts, strict=True)):
        sizes = [len(part) for part in of_ranks]
        assert sum(sizes) == streams[0].samples_in_batch(number)
        assert max(sizes) - min(sizes) <= 1
        assert min(sizes) >= min(2, batch_size)
        assert min(sizes) >= streams[0].smallest_part
    seen = sorted(target for part in parts for batch in part for target in batch)
    rest = count % full
    assert len(seen) == len(set(seen)) == (count if rest >= 2 * ranks else count - rest)


@settings(max_examples=30)
@given(ranks=st.integers(2, 4), batch_size=st.integers(1, 5), start=st.integers(0, 30))
def test_the_parts_of_all_ranks_are_the_batch_of_one_process_augmentation_included(ranks, batch_size, start):
    images = torch.randint(0, 256, (43, 1, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = Data(name="x", train=TensorSamples(images, torch.arange(43)), channels=1)
    transform = data.training_transform()
    assert transform is not None
    transform = type(transform)(augmentation=Augmentation(crop_padding=2, flip=True, cutout=3))

    def batch(size: int, rank: int, world_size: int) -> tuple[Tensor, Tensor]:
        own = {"rank": rank, "world_size": world_size}
        stream = InfiniteLoader(data.train, batch_size=size, seed=5, transform=transform, **own)
        return next(stream.batches(start))

    if 43 % (ranks * batch_size) in range(2, 2 * ranks):
        return  # several processes leave out such a last batch, one does not
    whole = batch(batch_size * ranks, 0, 1)
    parts = [batch(batch_size, rank, ranks) for rank in range(ranks)]
    assert torch.equal(torch.cat([inputs for inputs, _ in parts]), whole[0])
    assert torch.equal(torch.cat([targets for _, targets in parts]), whole[1])


@settings(max_examples=30)
@given(count=st.integers(4, 40), batch_size=st.integers(2, 4), start=st.integers(0, 60))
def test_going_on_from_batch_k_gives_the_tail(count, batch_size, start):
    def stream() -> InfiniteLoader:
        return InfiniteLoader(numbered(count), batch_size=batch_size, seed=3)

    assert targets_in(stream(), 5, start) == targets_in(stream(), start + 5)[start:]


def test_epochs_are_shuffled_differently_and_seeds_differ():
    stream = InfiniteLoader(numbered(32), batch_size=32, seed=0)
    (first,), (second,) = targets_in(stream, 1), targets_in(stream, 1, start=1)
    (other,) = targets_in(InfiniteLoader(numbered(32), batch_size=32, seed=1), 1)
    assert sorted(first) == sorted(second) == list(range(32))
    assert first != second
    assert first != other


def test_without_shuffling_batches_follow_the_given_indices():
    stream = InfiniteLoader(numbered(10), batch_size=2, seed=0, indices=torch.tensor([9, 3, 4, 1]), shuffle=False)
    assert targets_in(stream, 3) == [[9, 3], [4, 1], [9, 3]]


def test_a_stream_takes_nothing_from_the_global_generator():
    before = torch.get_rng_state()
    targets_in(InfiniteLoader(numbered(20), batch_size=3, seed=0), 10)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_first_batch_of_seed_0_stays_as_it_is():
    # A stored run resumes only if this never changes.
    assert targets_in(InfiniteLoader(numbered(8), batch_size=8, seed=0), 1) == [[2, 4, 1, 6, 5, 0, 7, 3]]


def test_waiting_time_adds_up_and_is_a_small_part_of_a_real_step():
    images = torch.zeros(1000, 3, 32, 32, dtype=torch.uint8)
    data = Data(
        name="x",
        train=TensorSamples(images, torch.arange(1000) % 2),
        channels=3,
        augmentation=Augmentation(crop_padding=4),
    )
    stream = InfiniteLoader(data.train, batch_size=64, seed=0, transform=data.training_transform(cutout=16))
    targets_in(stream, 1)
    once = stream.waiting_seconds
    targets_in(stream, 20)
    assert 0 < once < stream.waiting_seconds < 1.0  # 0.04 s on an idle core


@settings(max_examples=40)
@given(count=st.integers(1, 30), batch_size=st.integers(1, 7), ranks=st.integers(1, 4))
def test_evaluation_reads_every_sample_once_in_order_rank_after_rank(count, batch_size, ranks):
    seen: list[int] = []
    for rank in range(ranks):
        batches = list(evaluation_batches(numbered(count), batch_size=batch_size, rank=rank, world_size=ranks))
        assert all(len(targets) == len(inputs) <= batch_size for inputs, targets in batches)
        seen += [target for _, targets in batches for target in targets.tolist()]
    assert seen == list(range(count))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, but got batch_size=0"),
        ({"batch_size": 2.5}, r"batch_size=2\.5"),
        ({"batch_size": True}, "batch_size=True"),
        ({"seed": -1}, "seed=-1"),
        ({"workers": -1}, "workers=-1"),
        ({"world_size": 0}, "world_size=0"),
        ({"rank": 2, "world_size": 2}, r"0\.\.1 .* got rank=2"),
    ],
)
def test_options_outside_their_range_are_refused_by_name_and_value(options, message):
    with pytest.raises(OptionError, match=message):
        InfiniteLoader(numbered(10), **({"batch_size": 2, "seed": 0} | options))


def test_too_few_samples_name_both_numbers_and_the_remedy():
    with pytest.raises(
        DataError, match=r"takes 64 samples \(batch_size=64\), but the data has 5\. Give batch_size=5 or less"
    ):
        InfiniteLoader(numbered(5), batch_size=64, seed=0)
    with pytest.raises(DataError, match=r"on each of 4 processes.*has 3\. Give more data"):
        InfiniteLoader(numbered(3), batch_size=1, seed=0, world_size=4)


@pytest.mark.parametrize("indices", [[0, 10], [-1, 2], [], [0.0, 1.0], [[1, 2]]])
def test_indices_outside_the_data_are_refused(indices):
    indices = torch.tensor(indices) if indices else torch.arange(0)
    with pytest.raises(DataError, match="Sample indices must be"):
        InfiniteLoader(numbered(10), batch_size=1, seed=0, indices=indices)


def test_a_negative_start_is_refused_before_the_first_batch():
    with pytest.raises(OptionError, match="start=-1"):
        InfiniteLoader(numbered(10), batch_size=2, seed=0).batches(-1)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_batches_are_those_of_the_cpu_and_samples_are_copied_once():
    samples = numbered(50)
    streams = [InfiniteLoader(samples, batch_size=8, seed=0, device=device) for device in ("cpu", "cuda")]
    assert targets_in(streams[0], 10) == targets_in(streams[1], 10)
    device = torch.device("cuda", torch.cuda.current_device())
    resident = samples.tensors_on(device)
    assert resident is not None
    assert resident is samples.tensors_on(device)
