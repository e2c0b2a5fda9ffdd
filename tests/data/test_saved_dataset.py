"""Folders that `save_to_disk` of Hugging Face's datasets wrote, here written by pyarrow in the same way."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from archgrad.cli.data import open_data
from archgrad.data import load
from archgrad.data.samples import pair_of
from archgrad.errors import DataError, OptionError

pa = pytest.importorskip("pyarrow", reason="the extra 'tables' is not installed")

LABELS = {"_type": "ClassLabel", "names": ["cat", "dog", "owl"]}
PIXELS = np.random.default_rng(0).integers(0, 255, (24, 8, 8, 3)).astype(np.uint8)


def save(folder: Path, columns: dict[str, Any], features: dict[str, Any] | None = None, *, files: int = 1) -> Path:
    folder.mkdir(parents=True)
    table = pa.table(columns)
    names = [f"data-{number:05}-of-{files:05}.arrow" for number in range(files)]
    rows = -(-len(table) // files)
    for number, name in enumerate(names):
        part = table.slice(number * rows, rows)
        with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(part, max_chunksize=5)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": features or {}}))
    return folder


def images(rows: slice, labels: list[int | None] | None = None) -> dict[str, Any]:
    stored = []
    for pixels in PIXELS[rows]:
        Image.fromarray(pixels).save(png := io.BytesIO(), format="PNG")
        stored.append({"bytes": png.getvalue(), "path": None})
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    numbers = [row % 3 for row in range(24)][rows] if labels is None else labels
    return {"image": pa.array(stored, kind), "label": pa.array(numbers, pa.int64())}


FEATURES = {"image": {"_type": "Image"}, "label": LABELS}


def inputs_of(samples: Any) -> torch.Tensor:
    return torch.stack([torch.as_tensor(pair_of(samples, row)[0]) for row in range(len(samples))])


@pytest.mark.parametrize("memory_limit", [None, 0])
def test_images_are_read_where_they_lie_in_the_files(tmp_path: Path, memory_limit: int | None) -> None:
    parts = {"train": slice(0, 15), "validation": slice(15, 18), "test": slice(18, 24)}
    for name, rows in parts.items():
        save(tmp_path / "pets" / name, images(rows), FEATURES, files=2)
    (tmp_path / "pets" / "dataset_dict.json").write_text(json.dumps({"splits": list(parts)}))
    data = load(f"folder:{tmp_path}/pets", root=tmp_path / "cache", memory_limit=memory_limit)
    assert (data.classes, data.channels, data.image_size) == (("cat", "dog", "owl"), 3, 8)
    for samples, rows in ((data.train, slice(0, 15)), (data.valid, slice(15, 18)), (data.test, slice(18, 24))):
        expected = torch.from_numpy(PIXELS[rows]).permute(0, 3, 1, 2)
        assert torch.equal(inputs_of(samples), expected)
    assert data.train_targets.tolist() == [row % 3 for row in range(15)]
    with pytest.raises(OptionError, match="group goes with a table"):
        load(f"folder:{tmp_path}/pets", group="label")


def test_images_without_a_class_are_left_out_and_a_fifth_is_the_test_set(tmp_path: Path) -> None:
    labels = [row % 3 if row < 20 else (-1 if row < 22 else None) for row in range(24)]
    folder = save(tmp_path / "pets", images(slice(0, 24), labels), FEATURES)
    with pytest.warns(UserWarning, match=r"4 of 24 images of the train part .* have no class and are left out"):
        data = load(f"folder:{folder}", root=tmp_path / "cache", image_size=4)
    assert (len(data.train), len(data.test or ()), data.image_size) == (16, 4, 4)


def test_numbers_and_names_are_a_table_whose_parts_are_those_given(tmp_path: Path) -> None:
    features = {"kind": LABELS, "mood": {"_type": "ClassLabel", "names": ["calm", "wild"]}}

    def columns(first: int, count: int) -> dict[str, Any]:
        rows = range(first, first + count)
        return {
            "size": [row * row % 11 / 4 for row in rows],
            "kind": [row % 3 for row in rows],
            "mood": [row % 2 for row in rows],
        }

    save(tmp_path / "rows" / "train", columns(0, 30), features)
    save(tmp_path / "rows" / "test", columns(30, 7), features)
    (tmp_path / "rows" / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    name = f"folder:{tmp_path}/rows"
    data = load(name, target="kind")
    assert data.encoding is not None
    assert (data.name, data.classes, data.encoding.inputs) == (
        name,
        ("cat", "dog", "owl"),
        ("size", "mood=calm", "mood=wild"),
    )
    assert (len(data.train), len(data.test or ())) == (30, 7)
    assert data.train.inputs[:, 0].mean().abs() < 1e-6  # type: ignore[attr-defined]
    values = {"data": name, "target": "size", "task": "regression", "train_samples": None}
    assert open_data(values).train_targets.is_floating_point()
    with pytest.raises(OptionError, match=r"needs a column that is to be predicted.* one of size, kind, mood"):
        load(name)
    with pytest.raises(DataError, match=r"has no column 'kinds'\. Did you mean 'kind'"):
        load(name, target="kinds")


def test_lists_of_one_length_are_tensors_by_column(tmp_path: Path) -> None:
    rows = {
        "words": [[1, 2, row] for row in range(12)],
        "mask": [[1, 1, 0]] * 12,
        "label": [row % 3 for row in range(12)],
    }
    data = load(f"folder:{save(tmp_path / 'texts', rows, {'label': LABELS})}")
    inputs, target = pair_of(data.train, 5)
    assert {name: value.tolist() for name, value in inputs.items()} == {"words": [1, 2, 5], "mask": [1, 1, 0]}
    assert (int(target), data.classes) == (2, ("cat", "dog", "owl"))
    windows = {"x": np.arange(48).reshape(4, 3, 4).tolist(), "y": [0.5, 1.0, 2.0, 4.0]}
    data = load(f"folder:{save(tmp_path / 'windows', windows)}", target="y")
    assert torch.equal(inputs_of(data.train), torch.arange(48).reshape(4, 3, 4))
    with pytest.raises(DataError, match=r"'x' .* have the lengths \[1, 2\]. Pad them"):
        load(f"folder:{save(tmp_path / 'ragged', {'x': [[1], [1, 2]], 'y': [0.5, 1.0]})}", target="y")
    with pytest.raises(DataError, match=r"'name' .* must hold numbers in each row beside columns of lists"):
        load(f"folder:{save(tmp_path / 'named', {'x': [[1], [2]], 'name': ['a', 'b'], 'y': [0.5, 1.0]})}", target="y")


def test_damage_is_told_and_a_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(tmp_path / "pets", images(slice(0, 12)), FEATURES)
    file = folder / "data-00000-of-00001.arrow"
    content = file.read_bytes()

    def refused(message: str) -> None:
        with pytest.raises(DataError, match=message):
            load(f"folder:{folder}", root=tmp_path / "cache")

    file.write_bytes(content[: len(content) // 2])
    refused("cannot be read: .* Save it anew")
    file.write_bytes(content)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "../../secret.arrow"}]}))
    refused("does not tell the files of the data set")
    (folder / "state.json").write_text("{")
    refused("state.json' cannot be read")
    shutil.rmtree(folder)
    stored = pa.array([{"bytes": None, "path": "/etc/a.png"}] * 12, images(slice(0, 1))["image"].type)
    save(folder, {"image": stored, "label": [row % 3 for row in range(12)]}, FEATURES)
    refused("Images of .* lie elsewhere")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(OptionError, match=r"needs pyarrow. Install archgrad\[tables\]"):
        load(f"folder:{folder}")
