"""Files are predicted as the training's were prepared: shape, fit and bits of images, and the columns of tables."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from archgrad.data import Data, load
from archgrad.data.decode import FITS, Fit
from archgrad.data.table_encoding import TableEncoding
from archgrad.errors import ExportError, OptionError
from archgrad.export import ModelDescription, describe_run, load_retrained, predict, predict_samples
from archgrad.retrain import retrain

from .runs import OPTIONS, TINY, tiny_network

LABELS = ("bright", "dark")
SHAPES = ((30, 20), (20, 28), (20, 28), (64, 48))  # width, height
HEIGHT, WIDTH = 20, 28


def pictures(root: Path, *, bits: int) -> list[Path]:
    """Write a training and a test folder, grey of 16 bits; return the training files in the data's order."""
    random, files = np.random.default_rng(0), []
    for part in ("train", "test"):
        for label in LABELS:
            folder = root / part / label
            folder.mkdir(parents=True)
            for number, (width, height) in enumerate(SHAPES):
                size = (height, width) if bits == 16 else (height, width, 3)
                pixels = random.integers(0, 2**bits, size).astype(np.uint16 if bits == 16 else np.uint8)
                # The bits are in the low byte, which 8 bits would lose.
                Image.fromarray(pixels % 300 if bits == 16 else pixels).save(folder / f"{number}.png")
                files += [folder / f"{number}.png"] if part == "train" else []
    return files


def network_on(run: Path, data: Data) -> torch.Tensor:
    """What the network gives for the loaded training samples, as shares of the classes."""
    transform = data.evaluation_transform()
    assert transform is not None
    with torch.no_grad():
        logits = load_retrained(run)(transform(data.train.inputs, None))  # type: ignore[attr-defined]
    return logits.double().softmax(1)


def shares(run: Path, files: list[Path]) -> torch.Tensor:
    found = [dict(zip(each.classes, each.probabilities, strict=True)) for each in predict(run, files)]
    return torch.tensor([[each[label] for label in LABELS] for each in found], dtype=torch.float64)


@pytest.mark.parametrize(("fit", "bits"), [*((fit, 8) for fit in FITS), ("pad", 16)])
@pytest.mark.filterwarnings("ignore:.*have another shape")
def test_training_files_are_predicted_as_the_network_sees_the_loaded_data(fit: Fit, bits: int, tmp_path: Path) -> None:
    files = pictures(tmp_path / "set", bits=bits)
    name = f"folder:{tmp_path / 'set'}"
    data = load(name, root=tmp_path / "cache", image_size=(HEIGHT, WIDTH), fit=fit)
    assert data.bits == bits
    run = tmp_path / "run"
    options = {**OPTIONS, "batch_size": 4, "config": {"space": "tiny", "channels": 4}}
    network = tiny_network(num_classes=2, in_channels=data.channels)
    retrain(network, data, architecture=TINY, run_dir=run, **options)
    described = describe_run(run)
    assert (described.fit, described.bits, described.input_shape) == (fit, bits, (data.channels, HEIGHT, WIDTH))
    expected = network_on(run, data)
    assert torch.equal(shares(run, files), expected)
    # A model's own file tells the same, whoever reads it.
    assert ModelDescription.from_json(described.to_json(), where="it") == described
    # What files say matters: as all were prepared before, it comes out otherwise.
    summary = json.loads((run / "summary.json").read_text())
    for forgotten in ("fit", "bits"):
        summary.pop(forgotten)
    (run / "summary.json").write_text(json.dumps(summary))
    assert describe_run(run) == replace(described, fit="crop", bits=8)
    assert torch.equal(shares(run, files), expected) == ((fit, bits) == ("crop", 8))


@pytest.mark.filterwarnings("ignore:.*have another shape")
def test_a_folder_is_predicted_in_the_shape_and_fit_of_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARCHGRAD_CACHE", str(tmp_path / "cache"))
    pictures(tmp_path / "set", bits=8)
    name = f"folder:{tmp_path / 'set'}"
    data = load(name, image_size=(HEIGHT, WIDTH), fit="pad")
    run = tmp_path / "run"
    options = {**OPTIONS, "batch_size": 4, "config": {"space": "tiny", "channels": 4}}
    retrain(tiny_network(num_classes=2, in_channels=3), data, architecture=TINY, run_dir=run, **options)
    assert predict_samples(run, name) == predict_samples(run, data)
    assert predict_samples(run, name) != predict_samples(run, load(name, image_size=(HEIGHT, WIDTH)))


@pytest.mark.filterwarnings("ignore:.*have another shape")
def test_of_files_that_were_cut_at_random_in_training_the_centre_is_predicted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARCHGRAD_CACHE", str(tmp_path / "cache"))
    files = pictures(tmp_path / "set", bits=8)
    name = f"folder:{tmp_path / 'set'}"
    data = load(name, image_size=14, augmentation="imagenet")
    run = tmp_path / "run"
    options = {**OPTIONS, "batch_size": 4, "config": {"space": "tiny", "channels": 4}}
    retrain(tiny_network(num_classes=2, in_channels=3), data, architecture=TINY, run_dir=run, **options)
    described = describe_run(run)
    assert (described.input_shape, described.read_size) == ((3, 14, 14), (16, 16))
    assert torch.equal(shares(run, files), network_on(run, data))
    assert predict_samples(run, name) == predict_samples(run, data)
    assert ModelDescription.from_json(described.to_json(), where="it") == described
    assert json.loads(described.to_json())["version"] == 5
    whole = json.loads((run / "summary.json").read_text())
    whole.pop("read_size")
    (run / "summary.json").write_text(json.dumps(whole))
    assert not torch.equal(shares(run, files), network_on(run, data))  # the whole of each, brought to 14 x 14


def test_a_description_of_files_is_checked_as_it_is_read() -> None:
    encoding = TableEncoding.from_plain(
        [
            {"name": "area", "mean": 50.0, "std": 2.0, "may_be_missing": True},
            {"name": "district", "categories": ["north", "south"], "other": False},
        ]
    )
    table = ModelDescription(classes=("price",), input_shape=(4,), encoding=encoding)
    assert ModelDescription.from_json(table.to_json(), where="it") == table
    plain = ModelDescription(classes=("a", "b"), input_shape=(1, 6, 8), mean=(0.5,), std=(0.2,))
    assert json.loads(plain.to_json())["version"] == 1  # that older programs read as before
    deep = replace(plain, bits=16)
    assert json.loads(deep.to_json())["version"] == 4  # that older ones refuse
    square = replace(plain, input_shape=(1, 14, 14), read_size=(16, 16))
    for good, changes, message in (
        (deep, {"bits": 12}, "8 or 16, but got 12"),
        (deep, {"fit": "stretch"}, "fit must be one of crop, squash, pad"),
        (square, {"read_size": [13, 16]}, "read_size must be"),
        (square, {"read_size": [16, 5000]}, "read_size must be"),
        (square, {"read_size": [16]}, "read_size must be"),
        (square, {"read_size": 16}, "read_size must be a list"),
        (deep, {"read_size": [16, 16]}, "square inputs"),
        (table, {"table": []}, "at least one"),
        (table, {"table": [{"name": "area"}]}, "numbers with mean and deviation"),
        (table, {"table": table.encoding.to_plain()[:1]}, "table of 2 inputs"),  # type: ignore[union-attr]
        (table, {"table": [{"name": "a", "mean": 0.0, "std": 0.0, "may_be_missing": True}]}, "above 0"),
        (table, {"table": [{"name": "a", "categories": [1], "other": True}]}, "categories; but got"),
    ):
        content = json.loads(good.to_json()) | changes
        with pytest.raises(ExportError, match=message):
            ModelDescription.from_json(json.dumps(content), where="it")
    with pytest.raises(OptionError, match="no images"):
        ModelDescription(classes=("a", "b"), input_shape=(4,), fit="pad")
