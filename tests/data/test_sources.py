"""The data sets that have a name."""

import pickle
import socket
import struct
import time

import numpy as np
import pytest
import torch

from archgrad.data import load, sources
from archgrad.errors import DataError


def test_digits_are_the_embedded_1797_images_split_the_same_each_time():
    from sklearn.datasets import load_digits

    data = load("digits")
    assert (len(data.train), len(data.test)) == (1437, 360)
    assert (data.channels, data.image_size) == (1, 8)
    assert data.classes == tuple("0123456789")
    assert (data.augmentation.flip, data.augmentation.crop_padding) == (False, 1)
    both = torch.cat([data.train.inputs, data.test.inputs])
    assert both.dtype == torch.uint8
    assert (int(both.min()), int(both.max())) == (0, 255)
    original = (load_digits().images.reshape(1797, -1) * 255 / 16).round().astype(np.uint8)
    assert sorted(map(bytes, both.flatten(1).numpy())) == sorted(map(bytes, original))
    assert torch.equal(load("digits").test.inputs, data.test.inputs)
    share = data.test.targets.bincount() / torch.cat([data.train.targets, data.test.targets]).bincount()
    assert float((share - 0.2).abs().max()) < 0.01


def test_digits_are_found_where_scikit_learn_keeps_them_elsewhere(monkeypatch):
    data, find = load("digits"), sources.importlib.util.find_spec
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: None if name == "sklearn" else find(name))
    assert torch.equal(load("digits").train.inputs, data.train.inputs)


def idx_file(values: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()


def test_mnist_files_under_root_are_read_without_network(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for part, count in (("train", 20), ("t10k", 10)):
        images = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx_file(images))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx_file(labels))
    data = load("mnist", root=tmp_path, download=False)
    assert data.test.inputs.shape == (10, 1, 28, 28)
    assert torch.equal(data.test.inputs[:, 0], torch.from_numpy(images))
    assert data.test.targets.tolist() == list(range(10))
    assert data.classes == tuple("0123456789")
    assert not data.augmentation.flip


@pytest.mark.parametrize(
    ("name", "attribute", "by_part", "flip"),
    [("cifar10", "targets", "train", True), ("cifar100", "targets", "train", True), ("svhn", "labels", "split", False)],
)
def test_torchvision_sets_become_uint8_tensors_channels_first(tmp_path, monkeypatch, name, attribute, by_part, flip):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)

    class Fake:
        classes = ("cat", "dog")

        def __init__(self, root, *, download, **part):
            assert list(part) == [by_part]
            self.data = pixels if name == "svhn" else pixels.transpose(0, 2, 3, 1)
            setattr(self, attribute, np.array([0, 1, 0, 1]) if name == "svhn" else [0, 1, 0, 1])

    monkeypatch.setattr(f"torchvision.datasets.{name.upper()}", Fake)
    data = load(name, root=tmp_path)
    assert torch.equal(data.train.inputs, torch.from_numpy(pixels))
    assert data.train.targets.tolist() == [0, 1, 0, 1]
    assert (data.augmentation.flip, data.augmentation.crop_padding) == (flip, 4)
    if name == "cifar10":
        assert (data.mean, data.std) == ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
    assert data.classes == (tuple("0123456789") if name == "svhn" else ("cat", "dog"))


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_hostile_pickle_in_place_of_cifar10_is_never_loaded(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"):
        (folder / name).write_bytes(pickle.dumps(Hostile(tmp_path / "proof")))
    with pytest.raises(DataError, match="not whole"):
        load("cifar10", root=tmp_path, download=False)
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize("name", ["cifar10", "mnist", "svhn"])
def test_where_nothing_can_be_downloaded_the_message_says_what_to_do(tmp_path, monkeypatch, name):
    def no_network(*args, **options):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    for option in (True, False):
        began = time.perf_counter()
        with pytest.raises(DataError, match=rf"'{name}' is not whole under .*downloaded.*root=.*folder:PATH") as caught:
            load(name, root=tmp_path, download=option)
        assert time.perf_counter() - began < 10
        assert ("could not be" if option else "may not be") in str(caught.value)
    assert socket.getdefaulttimeout() is None


def test_a_server_that_does_not_answer_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr("archgrad.data.sources._PATIENCE_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setattr("torchvision.datasets.CIFAR10.url", f"http://127.0.0.1:{port}/cifar.tar.gz")
        for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(variable, raising=False)
        with pytest.raises(DataError, match="timed out"):
            load("cifar10", root=tmp_path)


def test_an_unknown_name_lists_the_known_ones_and_guesses_a_forgotten_prefix(tmp_path):
    with pytest.raises(DataError, match=r"no data set 'cifar11'\. Known are digits, cifar10, .*folder:PATH"):
        load("cifar11")
    with pytest.raises(DataError, match=f"give 'folder:{tmp_path}'"):
        load(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        *(
            ("table.xlsx", "as CSV"),
            ("table.csv.gz", "Unpack it"),
            ("photos.zip", "folder:PATH"),
            ("rows.json", "as CSV"),
        ),
        *(("x.npy", "numpy.savez"), ("log.txt", "FILE.csv"), ("all.pkl", "FILE.py:NAME"), ("Data.MAT", "FILE.py:NAME")),
    ],
)
def test_files_that_are_not_read_are_told_what_to_do_with(tmp_path, name, message):
    (tmp_path / name).touch()
    with pytest.raises(DataError, match=f"not read as data.*{message}"):
        load(str(tmp_path / name), target="kind")
