"""`--data TABLE --target COLUMN`: from a table to a network without a line of Python."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml

from archgrad.architecture import Architecture
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
    assert "'mlp', which is for vectors" in told.err
    told = archgrad("search", "--space", "mlp", *QUICK)
    assert "'mlp' is for inputs that are vectors" in told.err
    told = archgrad("search", "--image-size", "12by12", "--data", "folder:here", *QUICK)
    assert "height x width as 48x96, but got '12by12'" in told.err
