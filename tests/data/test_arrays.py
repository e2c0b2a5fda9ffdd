"""Pairs of arrays with structure, and files of arrays."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Subset

import archgrad as ag
from archgrad.data import Data, InfiniteLoader, as_data, evaluation_batches, load
from archgrad.errors import DataError

WORDS, LENGTHS = torch.arange(36).reshape(12, 3), torch.arange(12.0)
LABELS = torch.arange(12) % 2


class Sentences(nn.Module):
    """Reads a dict of two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(36, 4)
        self.layer = ag.LayerChoice({"linear": nn.Linear(4, 4), "skip": nn.Identity()}, label="layer")
        self.head = nn.Linear(4, 2)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.head(self.layer(self.embedding(inputs["words"]).mean(1)) + inputs["lengths"][:, None] / 12)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_dict_of_inputs_is_served_in_batches_of_its_rows(workers: int) -> None:
    data = as_data(({"words": WORDS, "lengths": LENGTHS.numpy()}, LABELS.numpy()))
    assert data.classes == ("0", "1")
    with InfiniteLoader(data.train, batch_size=4, seed=0, workers=workers) as stream:
        for _, (inputs, targets) in zip(range(4), stream.batches(), strict=False):
            rows = inputs["lengths"].long()
            assert torch.equal(inputs["words"], WORDS[rows])
            assert torch.equal(targets, LABELS[rows])


def test_a_tuple_of_inputs_stays_a_tuple_in_parts_and_batches() -> None:
    data = as_data(((WORDS, (LENGTHS,)), LABELS))
    ((words, (lengths,)), targets), *_ = evaluation_batches(Subset(data.train, [5, 2]), batch_size=2)
    assert torch.equal(words, WORDS[[5, 2]])
    assert lengths.tolist() == [5.0, 2.0]
    assert targets.tolist() == [1, 0]


def test_a_search_takes_a_dict_of_inputs() -> None:
    data = ({"words": WORDS, "lengths": LENGTHS}, LABELS)
    result = ag.search(Sentences(), data, epochs=1, batch_size=3, quiet=True, device="cpu")
    assert result.history[0]["train_loss"] > 0
    assert result.architecture.choices["layer"] in ("linear", "skip")


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        (({"words": WORDS, "lengths": LENGTHS[:5]}, LABELS), r"\(12, 3\), \(5,\) and \(12,\)"),
        (({"words": WORDS, "language": "en"}, LABELS), "type str"),
        (((WORDS, np.array([object()] * 12)), LABELS), "array of object"),
        (({}, LABELS), "shapes are none"),
        (({"lengths": LENGTHS / 0}, LABELS), "must be finite"),
    ],
)
def test_pairs_that_are_no_samples_are_refused(pair: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        as_data(pair)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        (("x", "y"), ("x_test", "y_test")),
        (("inputs", "targets"), ("test_inputs", "test_targets")),
        (("x_train", "y_train"), ("x_test", "y_test")),
    ],
)
def test_a_file_of_arrays_is_read_by_their_names(tmp_path: Path, train: Any, test: Any) -> None:
    images = np.arange(12 * 12, dtype=np.uint8).reshape(12, 1, 3, 4)
    arrays = dict(zip((*train, *test), (images, LABELS.numpy(), images[:4], LABELS[:4].numpy()), strict=True))
    np.savez(tmp_path / "all.npz", **arrays)
    data = load(str(tmp_path / "all.npz"))
    assert isinstance(data, Data)
    assert data.name == str(tmp_path / "all.npz")
    assert (data.channels, data.image_size, len(data.classes)) == (1, 3, 2)
    assert torch.equal(data.train[5][0], torch.from_numpy(images[5]))
    assert data.test is not None
    assert len(data.test) == 4
    np.savez_compressed(tmp_path / "train.npz", **{name: arrays[name] for name in train})
    assert load(str(tmp_path / "train.npz")).test is None


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"a": WORDS, "b": LABELS}, "x and y.*inputs and targets.*it has 'a', 'b'"),
        ({"x": WORDS, "y": LABELS, "weight": LABELS}, "'weight'"),
        ({"x": WORDS}, "it has 'x'"),
        ({"x": WORDS, "y": LABELS, "x_test": WORDS}, "'x_test'"),
        ({"x": WORDS, "targets": LABELS}, "'targets'"),
        ({"x": np.zeros((12, 8, 8, 3), np.uint8), "y": LABELS}, r"moveaxis"),
        ({"x": np.zeros((12, 8, 8), np.uint8), "y": LABELS}, r"x\[:, None\]"),
        ({"x": np.array([object()] * 12), "y": LABELS}, "cannot be read"),
    ],
)
def test_files_of_other_arrays_are_refused(tmp_path: Path, arrays: Any, words: str) -> None:
    np.savez(tmp_path / "a.npz", **{name: np.asarray(array) for name, array in arrays.items()})
    with pytest.raises(DataError, match=words):
        load(str(tmp_path / "a.npz"))


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 and then nothing", b"plain text"])
def test_a_file_that_is_no_archive_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.npz' cannot be read"):
        load(str(tmp_path / "a.npz"))


class Harmful:
    """Makes a folder when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> Any:
        return Path.mkdir, (self.proof,)


def test_a_pickle_in_a_file_of_arrays_is_not_run(tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    np.savez(tmp_path / "array.npz", x=np.array([Harmful(proof)] * 12, dtype=object), y=LABELS.numpy())
    (tmp_path / "plain.npz").write_bytes(pickle.dumps(Harmful(proof)))
    for name in ("array.npz", "plain.npz"):
        with pytest.raises(DataError, match="cannot be read"):
            load(str(tmp_path / name))
    assert not proof.exists()
