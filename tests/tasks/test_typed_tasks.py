"""The same from the command line: what is learnt is typed or inferred, handed on to the retraining, and predicted."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from archgrad.cli import main
from archgrad.export import Prediction, save_masks

from .task_problems import diabetes, masks

SMALL = ("--batch-size", "16", "--learning-rate", "0.05", "--quiet", "--device", "cpu")


def npz(problem, path: Path) -> str:  # type: ignore[no-untyped-def]
    data = problem()
    parts = {"x": data.train.inputs, "y": data.train.targets, "x_test": data.test.inputs, "y_test": data.test.targets}
    np.savez(path, **{name: part.numpy() for name, part in parts.items()})
    return str(path)


def test_a_regression_of_a_file_is_searched_retrained_exported_and_predicted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, space = npz(diabetes, tmp_path / "diabetes.npz"), "task_problems_space.py"
    (tmp_path / space).write_text(
        "import torch\nfrom torch import nn\nimport archgrad as ag\n\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__()\n"
        "        wide = {str(n): nn.Sequential(nn.Linear(10, n), nn.ReLU(), nn.Linear(n, 8)) for n in (4, 16)}\n"
        "        self.body, self.head = ag.LayerChoice(wide, label='width'), nn.Linear(8, num_classes)\n"
        "    def forward(self, x):\n"
        "        return self.head(torch.relu(self.body(x)))\n"
    )
    own = ("--space", f"{tmp_path / space}:Net")
    search, trained, file = (str(tmp_path / name) for name in ("search", "retrain", "model.onnx"))
    typed = ("--metric", "r2,mae", "--loss", "huber")
    assert main(["search", "--data", data, *own, "--epochs", "1", "--out", search, *typed, *SMALL]) == 0
    said = capsys.readouterr().out
    assert "--loss huber --metrics r2,mae" in said
    assert main(["retrain", "--arch", search, *own, "--epochs", "2", "--out", trained, "--cutout", "0", *SMALL]) == 0
    assert "Test r2:" in capsys.readouterr().out
    assert main(["export", trained, *own, "--onnx", file, "--batch-size", "8", "--opset", "18"]) == 0
    capsys.readouterr()
    assert main(["predict", file, "--data", data, "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert main(["predict", trained, *own, "--data", data, "--json"]) == 0
    by_run = json.loads(capsys.readouterr().out)
    assert len(rows) == len(by_run) == 24
    found, expected = [float(row["value"]) for row in rows], [row["values"]["value"] for row in by_run]
    assert found == pytest.approx(expected, abs=1e-5)


def test_masks_are_written_as_pictures_of_class_numbers(tmp_path: Path) -> None:
    positions = masks().test.targets[:2]  # type: ignore[union-attr]
    files = save_masks([Prediction(image="a/ink.png", positions=mask) for mask in positions], tmp_path / "masks")
    assert [file.name for file in files] == ["ink.png", "ink-2.png"]
    with Image.open(files[1]) as picture:
        assert picture.mode == "P"
        assert np.array_equal(np.asarray(picture), positions[1].numpy())
        assert picture.convert("RGB").getpixel((0, 0)) == (0, 0, 0)  # the background, by custom
