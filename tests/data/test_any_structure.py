"""Samples of any mapping or sequence, with strings, numbers and nothing beside tensors, search and retrain alike."""

from __future__ import annotations

from collections import OrderedDict, UserDict, UserList, deque, namedtuple
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import Dataset

import archgrad as ag
from archgrad.batches import count, cut, prepare, uncut
from archgrad.data import evaluation_batches
from archgrad.errors import DataError
from archgrad.nested import branches, is_structure, map_tensors, places, tensors_in

Pair = namedtuple("Pair", "image extra")


class Encoding(UserDict):  # as tokenizers give it: its keys are attributes, too, and it holds more than its items
    def __init__(self, data: Any, origin: str = "") -> None:
        super().__init__(data)
        self.origin = origin

    def __getattr__(self, name: str) -> Any:
        if name != "data" and name in self.data:
            return self.data[name]
        raise AttributeError(name)


class Row(Sequence[Any]):  # made of its parts one by one, so that it cannot be made again as a list is
    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, place: Any) -> Any:
        return self.parts[place]


class Samples(Dataset):
    def __init__(self, make: Callable[[Tensor, int], Any]) -> None:
        self.make, self.x = make, torch.randn(24, 4, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.make(self.x[index], index), index % 3


KINDS: dict[str, tuple[Callable[[Tensor, int], Any], Callable[[Any], Tensor]]] = {
    "encoding": (lambda x, i: Encoding({"x": x, "text": f"no {i}", "n": i}), lambda batch: batch.x),
    "named tuple": (lambda x, i: Pair(x, (i, f"no {i}")), lambda batch: batch.image),
    "ordered dict": (lambda x, i: OrderedDict(name=f"no {i}", x=x), lambda batch: batch["x"]),
    "read-only mapping": (lambda x, i: MappingProxyType({"x": x}), lambda batch: batch["x"]),
    "user list": (lambda x, i: UserList([f"no {i}", x]), lambda batch: batch[1]),
    "deque": (lambda x, i: deque([x, 0.5]), lambda batch: batch[0]),
    "own sequence": (lambda x, i: Row("a", x), lambda batch: batch[1]),
    "nested": (lambda x, i: {"q": [(x, "s"), Encoding({"r": 3.5})]}, lambda batch: batch["q"][0][0]),
    "array and nothing": (lambda x, i: {"x": x.numpy(), "mask": None, "k": np.float32(3)}, lambda batch: batch["x"]),
}


class Network(nn.Module):
    def __init__(self, get: Callable[[Any], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.get = get
        self.choice = ag.LayerChoice({"plain": nn.Linear(4, 3), "deep": nn.Sequential(nn.Linear(4, 3), nn.Tanh())})

    def forward(self, batch: Any) -> Tensor:
        return self.choice(self.get(batch))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("accumulation", [1, 2])
def test_search_and_retraining_take_it_and_give_what_the_tensor_alone_gives(kind: str, accumulation: int) -> None:
    def run(make: Callable[[Tensor, int], Any], get: Callable[[Any], Tensor]) -> list[Any]:
        data = ag.Data.from_datasets(Samples(make), Samples(make))
        options = {"epochs": 1, "batch_size": 8, "accumulation": accumulation, "device": "cpu", "quiet": True}
        found = ag.search(Network(get), data, **options)
        trained = ag.retrain(ag.derive(Network(get), found.architecture), data, **options)
        return [row[name] for row in (*found.history, *trained.history) for name in ("train_loss", "train_accuracy")]

    assert run(*KINDS[kind]) == run(lambda x, i: x, lambda batch: batch)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_type_of_a_sample_is_that_of_a_batch_with_all_it_holds(workers: int) -> None:
    samples = Samples(with_origin)
    batch, _ = next(evaluation_batches(samples, batch_size=4, workers=workers))
    assert type(batch) is Encoding
    assert batch.origin == "file"
    assert batch.x.shape == (4, 4)
    assert batch["pair"].extra == ["0", "1", "2", "3"]


def with_origin(x: Tensor, index: int) -> Encoding:
    return Encoding({"x": x, "pair": Pair(x, str(index))}, origin="file")


def test_strings_are_cut_with_their_samples() -> None:
    batch = {"x": torch.arange(5), "id": list("abcde"), "about": ("a", "b"), "word": "fives", "n": range(5)}
    parts = [part for part, _ in cut(batch, torch.arange(5), 2)]
    assert [part["id"] for part in parts] == [["a", "b"], ["c", "d", "e"]]
    assert all(part["about"] == ("a", "b") and part["word"] == "fives" and part["n"] == range(5) for part in parts)


@pytest.mark.parametrize(
    "make",
    [
        lambda x, i: {"x": x} if i else {"x": x, "more": x},  # would be left out of the batch without a word
        lambda x, i: {"x": x} if i else {"y": x},
        lambda x, i: (x,) * (1 + i % 2),
        lambda x, i: None if i else x,
    ],
)
def test_samples_of_other_parts_are_told(make: Callable[[Tensor, int], Any]) -> None:
    with pytest.raises(DataError, match="cannot be joined"):
        next(evaluation_batches(Samples(make), batch_size=4))


LEAVES = st.one_of(
    st.integers(0, 5).map(lambda n: torch.arange(4.0).reshape(4, 1) + n),
    st.integers(0, 5).map(lambda n: torch.arange(4) + n),
    st.text(max_size=3),
    st.integers(),
    st.none(),
)
STRUCTURES = st.recursive(
    LEAVES,
    lambda parts: st.one_of(
        st.lists(parts, max_size=3),
        st.lists(parts, max_size=3).map(tuple),
        st.lists(parts, max_size=3).map(UserList),
        st.lists(parts, max_size=3).map(lambda found: Row(*found)),
        st.tuples(parts, parts).map(lambda two: Pair(*two)),
        st.dictionaries(st.sampled_from("abc"), parts),
        st.dictionaries(st.sampled_from("abc"), parts).map(Encoding),
        st.dictionaries(st.sampled_from("abc"), parts).map(MappingProxyType),
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(STRUCTURES)
def test_no_place_is_lost_or_missed_in_any_structure(value: Any) -> None:
    before = [(place, leaf) for place, leaf in places(value)]
    mapped = list(places(map_tensors(value, torch.neg)))
    assert [place for place, _ in mapped] == [place for place, _ in before]
    for (_, old), (_, new) in zip(before, mapped, strict=True):
        assert torch.equal(new, -old) if isinstance(old, Tensor) else new is old
    assert all(a is b for a, b in zip(tensors_in(value), (x for _, x in before if isinstance(x, Tensor)), strict=True))
    cast = prepare(value, dtype=torch.float64, channels_last=True)
    assert all(x.dtype in (torch.float64, torch.int64) for x in tensors_in(cast))
    if any(True for _ in tensors_in(value)):
        assert count(value) == 4
    whole = uncut([part for part, _ in cut(value, torch.arange(4), 3)])
    assert all(torch.equal(a, b) for a, b in zip(tensors_in(whole), tensors_in(value), strict=True))


def test_what_is_one_thing_is_no_structure() -> None:
    assert not any(map(is_structure, ("text", b"bytes", range(3), torch.zeros(2), np.zeros(2), nn.Linear(1, 1), None)))
    assert branches(Pair(1, 2)) == [(0, 1), (1, 2)]


class RowsOf(Dataset):
    def __init__(self, whole: Any) -> None:
        self.whole = whole

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return map_tensors(self.whole, lambda tensor: tensor[index]), index % 2


@settings(max_examples=60, deadline=None)
@given(STRUCTURES.filter(is_structure), st.integers(1, 4))
def test_samples_of_any_structure_are_joined_to_batches_of_it(whole: Any, size: int) -> None:
    if any(isinstance(leaf, int) and not -(2**63) <= leaf < 2**63 for _, leaf in places(whole)):
        with pytest.raises(DataError, match="cannot be joined: Overflow"):
            list(evaluation_batches(RowsOf(whole), batch_size=size))
        return
    batches = list(evaluation_batches(RowsOf(whole), batch_size=size))
    assert [len(targets) for _, targets in batches] == [len(part) for part in torch.arange(4).split(size)]
    expected = {place: leaf for place, leaf in places(whole) if isinstance(leaf, Tensor)}
    for number, (inputs, _) in enumerate(batches):
        found = {place: leaf for place, leaf in places(inputs) if isinstance(leaf, Tensor)}
        for place, leaf in expected.items():
            assert torch.equal(found[place], leaf[number * size : (number + 1) * size])
        if expected:
            parts = [part for part, _ in cut(inputs, torch.arange(len(next(iter(found.values())))), 2)]
            assert all(torch.equal(a, b) for a, b in zip(tensors_in(uncut(parts)), tensors_in(inputs), strict=True))
