"""`--data TABLE --target COLUMN`: from a table to a network without a line of Python."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from archgrad.architecture import Architecture
from archgrad.data import load
from archgrad.export.load import describe_run, load_retrained

from .typed import Type

QUICK = ("--epochs", 1, "--batch-size", 16, "--quiet", "--device", "cpu")


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    random = np.random.default_rng(0)
    rows = [f"{a:.3f};{b:.3f};{'ab'[int(a > b)]};p{row % 9}" for row, (a, b) in enumerate(random.random((90, 2)))]
    text = "\n".join(["first;second;kind;patient", *rows]).replace(".", ",")
    (tmp_path / "my table.csv").write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "my table.csv"


def test_a_table_is_searched_and_retrained_by_the_commands_that_are_told(table: Path, archgrad: Type) -> None:
    told = archgrad(
        "search", "--data", "my table.csv", "--target", "kind", "--group", "patient", "--space.width", 4,
        "--space.layers", 2, "--out", "found", *QUICK,
    )  # fmt: skip
    assert told.status == 0, told.err
    config = yaml.safe_load(Path("found/config.yaml").read_text())
    assert (config["space"], config["data"], config["target"], config["group"]) == (
        "mlp",
        str(table),
        "kind",
        "patient",
    )
    architecture = Architecture.load("found")
    assert architecture.space == "mlp"
    assert set(architecture.choices) == {"layer0", "layer1"}
    (next_line,) = [line for line in told.out.splitlines() if "archgrad retrain" in line]
    typed = shlex.split(next_line)
    assert typed[typed.index("--target") + 1] == "kind"
    assert typed[typed.index("--group") + 1] == "patient"
    told = archgrad("retrain", "--arch", "found", "--drop-path", 0, "--out", "net", *QUICK)
    assert told.status == 0, told.err
    assert "--group patient" not in told.out  # quiet
    assert yaml.safe_load(Path("net/config.yaml").read_text())["target"] == "kind"
    description = describe_run(Path("net"))
    assert (description.features, description.classes) == (2, ("a", "b"))
    assert load_retrained(Path("net")) is not None
    told = archgrad("search", "--data", "my table.csv", *QUICK)
    assert told.status == 2
    assert "--target), one of first, second, kind, patient" in told.err
    told = archgrad("search", "--data", "my table.csv", "--target", "kind", "--space", "tiny", *QUICK)
    assert "'tiny' is for images" in told.err
    assert "which are vectors: take mlp, tabular" in told.err
    told = archgrad("search", "--space", "mlp", *QUICK)
    assert "'mlp' is for vectors" in told.err
    told = archgrad("search", "--image-size", "12by12", "--data", "folder:here", *QUICK)
    assert "height x width as 48x96, but got '12by12'" in told.err


def test_prices_are_learnt_reported_and_predicted_for_new_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, archgrad: Type
) -> None:
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    areas = random.uniform(20, 120, 80)
    rows = [
        f"{'' if row % 9 == 0 else f'{area:.1f}'},{place},{2 * area + 30 * (row % 3):.2f},{row % 4}"
        for row, (area, place) in enumerate(zip(areas, ["north", "south", "west"] * 27, strict=False))
    ]
    Path("t.csv").write_text("\n".join(["area,district,price,count", *rows]))
    sizes = ("--space.width", 8, "--space.layers", 1)
    told = archgrad(
        "search", "--data", "t.csv", "--target", "price", "--sample-weight", "count", *sizes, "--out", "found", *QUICK
    )
    assert told.status == 0, told.err
    told = archgrad("retrain", "--arch", "found", "--drop-path", 0, "--out", "net", *QUICK)
    assert told.status == 0, told.err
    assert yaml.safe_load(Path("net/config.yaml").read_text())["sample_weight"] == "count"  # from the search
    assert "with weights of samples" in json.loads(Path("net/environment.json").read_text())["data"]
    told = archgrad("report", "found", "net", "--out", "page.html")
    assert told.status == 0, told.err
    assert "residual" in Path("page.html").read_text().lower()

    # New rows in other columns' order and without a price: one lacks its area, one is of a district that was not seen.
    Path("new.csv").write_text("district,area,owner\nsouth,50.5,A\nnorth,,B\neast,100,C\n")
    told = archgrad("predict", "net", "--data", "new.csv", "--json")
    assert told.status == 0, told.err
    found = [row["values"]["value"] for row in json.loads(told.out)]
    encoding = load("t.csv", target="price", sample_weight="count").encoding
    assert encoding is not None
    assert encoding.inputs == ("area", "area is missing", "district=north", "district=south", "district=west")
    inputs = encoding.encode("new.csv")
    assert inputs[1].tolist() == [0, 1, 1, 0, 0]
    assert inputs[2, 1:].tolist() == [0, 0, 0, 0]
    with torch.no_grad():
        expected = load_retrained(Path("net"))(inputs)
    assert found == expected.double().flatten().tolist()

    # A network whose folder does not tell the columns refuses rows.
    summary = json.loads(Path("net/summary.json").read_text())
    Path("net/summary.json").write_text(json.dumps({key: summary[key] for key in summary if key != "table"}))
    told = archgrad("predict", "net", "--data", "new.csv")
    assert told.status == 2
    assert "does not tell how rows of a table become its inputs" in told.err


def test_metrics_and_weights_may_be_lists_in_a_config(table: Path, archgrad: Type) -> None:
    config = {"metrics": ["accuracy", "f1"], "class_weights": [1, 2.5], "space_options": {"width": 4, "layers": 1}}
    Path("lists.yaml").write_text(yaml.safe_dump(config))
    told = archgrad(
        "search", "--config", "lists.yaml", "--data", "my table.csv", "--target", "kind", "--out", "listed", *QUICK
    )
    assert told.status == 0, told.err
    kept = yaml.safe_load(Path("listed/config.yaml").read_text())
    assert (kept["metrics"], kept["class_weights"]) == ("accuracy,f1", "1,2.5")
    assert "valid_f1" in Path("listed/metrics.csv").read_text().splitlines()[0]
    assert archgrad("search", "--resume", "listed").status == 0
