"""Samples that a function of the caller's makes batches of, iterable data sets, and loaders handed in."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_sequence
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, WeightedRandomSampler

import archgrad as ag
from archgrad.batches import cut
from archgrad.data import InfiniteLoader, as_data
from archgrad.data.batch_readers import to_device
from archgrad.errors import DataError, OptionError

LENGTHS = [3, 5, 2, 4] * 6


class Texts(Dataset):
    """Words of unequal lengths; the class is whether the first is even."""

    def __len__(self) -> int:
        return len(LENGTHS)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.arange(index, index + LENGTHS[index]), index % 2


def padded(pairs):
    words, targets = zip(*pairs, strict=True)
    return {"words": pad_sequence(words, batch_first=True), "lengths": torch.tensor([*map(len, words)])}, torch.tensor(
        targets
    )


def packed(pairs):
    words, targets = zip(*pairs, strict=True)
    return pack_sequence(words, enforce_sorted=False), torch.tensor(targets)


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(40, 4)
        self.layer = ag.LayerChoice({"linear": nn.Linear(4, 4), "skip": nn.Identity()}, label="layer")
        self.head = nn.Linear(4, 2)

    def forward(self, inputs):
        if isinstance(inputs, PackedSequence):
            inputs = {"words": nn.utils.rnn.pad_packed_sequence(inputs, batch_first=True)[0]}
        return self.head(self.layer(self.embedding(inputs["words"]).mean(1)))


@pytest.mark.parametrize("collate", [padded, packed])
def test_texts_of_unequal_lengths_are_searched(collate):
    data = ag.Data.from_datasets(Texts(), collate=collate)
    assert data.classes == ("0", "1")
    result = ag.search(Reader(), data, epochs=1, batch_size=4, quiet=True, device="cpu")
    assert result.history[0]["train_loss"] > 0
    with InfiniteLoader(data.train, batch_size=4, seed=0) as stream:
        first, second = (next(stream.batches(5)) for _ in range(2))
    assert torch.equal(first[1], second[1])  # a batch is found again by its number


def test_parts_of_such_data_keep_the_function():
    data = ag.Data.from_datasets(Texts(), valid=Texts(), collate=padded)
    for part in (data.take(torch.arange(9)).train, data.whole().train):
        with InfiniteLoader(part, batch_size=4, seed=0) as stream:
            assert set(next(stream.batches())[0]) == {"words", "lengths"}


def test_targets_of_unequal_lengths_are_known_when_they_are_a_batch():
    class Tags(Texts):
        def __getitem__(self, index):
            words, _ = super().__getitem__(index)
            return words, words % 2

    def both(pairs):
        return tuple(pad_sequence(column, batch_first=True) for column in zip(*pairs, strict=True))

    data = ag.Data.from_datasets(Tags(), collate=both)
    assert data.classes == ()
    weights, alphas = data.halves(fraction=0.5, seed=0)
    assert len(weights.indices) == len(alphas.indices) == 12
    with InfiniteLoader(data.train, batch_size=4, seed=0) as stream:
        words, tags = next(stream.batches())
    assert torch.equal(words % 2, tags)


@pytest.mark.parametrize("wrong", [lambda pairs: pairs, lambda pairs: (1, [2]), lambda pairs: (1, torch.tensor(2))])
def test_a_function_that_returns_something_else_is_told(wrong):
    data = ag.Data.from_datasets(Texts(), collate=wrong)
    with InfiniteLoader(data.train, batch_size=4, seed=0) as stream, pytest.raises(DataError, match="must return"):
        next(stream.batches())


def test_accumulation_is_refused_where_batches_have_no_rows():
    graph = {"nodes": torch.zeros(9, 2), "edges": torch.zeros(2, 20)}
    with pytest.raises(OptionError, match=r"shape \(9, 2\), which has no row for each of the 4 targets"):
        list(cut(graph, torch.zeros(4), 2))
    assert len(list(cut(graph, torch.zeros(4), 1))) == 1


def test_what_can_move_itself_does():
    class Graph:
        def to(self, device):
            return f"on {device}"

    moved = to_device({"graph": Graph(), "name": "g"}, torch.device("cpu"))
    assert moved == {"graph": "on cpu", "name": "g"}


class Stream(IterableDataset):
    def __iter__(self):
        yield from (Texts()[index] for index in range(len(LENGTHS)))


@pytest.mark.filterwarnings("ignore:Of the DataLoader")
def test_an_iterable_data_set_and_a_loader_are_split_as_their_samples_are():
    expected = ag.Data.from_datasets(Texts(), collate=padded)
    for source in (
        ag.Data.from_datasets(Stream(), collate=padded),
        as_data(DataLoader(Texts(), batch_size=2, collate_fn=padded, shuffle=True)),
        as_data(DataLoader(Stream(), collate_fn=padded)),
    ):
        assert torch.equal(source.train_targets, expected.train_targets)
        with (
            InfiniteLoader(source.train, batch_size=4, seed=0) as one,
            InfiniteLoader(expected.train, batch_size=4, seed=0) as other,
        ):
            assert torch.equal(next(one.batches())[0]["words"], next(other.batches())[0]["words"])
    pairs = TensorDataset(torch.randn(8, 3), torch.arange(8) % 2)
    with pytest.warns(UserWarning, match="archgrad makes the batches itself"):
        assert torch.equal(as_data(DataLoader(pairs)).train.inputs, pairs.tensors[0])
    with pytest.raises(DataError, match="draws by a WeightedRandomSampler"):
        as_data(DataLoader(pairs, sampler=WeightedRandomSampler(torch.ones(8), 8)))


def test_an_endless_data_set_ends(monkeypatch):
    class Endless(IterableDataset):
        def __iter__(self):
            while True:
                yield torch.zeros(1000), 0

    monkeypatch.setattr("archgrad.data.samples.machine_memory", lambda: 2**20)
    with pytest.raises(DataError, match="more than a quarter of it after 63 samples"):
        ag.Data.from_datasets(Endless())
