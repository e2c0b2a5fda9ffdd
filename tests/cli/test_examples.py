"""The two documented lines, `python3 search.py` and `python3 retrain.py`, on a few images."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

import archgrad as ag
from archgrad.cli import main

from .typed import class_folders

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = EXAMPLES / "darts"
FLAGS = {
    "search.py": {
        "layers": 8, "batch-size": 64, "log-frequency": 10, "epochs": 50, "channels": 16, "unrolled": False,
        "data": "cifar10",
    },
    "retrain.py": {
        "layers": 20, "batch-size": 96, "log-frequency": 10, "epochs": 600, "aux-weight": 0.4, "drop-path-prob": 0.2,
        "workers": 4, "grad-clip": 5.0, "arc-checkpoint": "./checkpoints/epoch_0.json", "data": "cifar10",
    },
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder as the scripts find it: beside them, with nothing done yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ARCHGRAD_DATA", str(cache))
    for name in FLAGS:
        (tmp_path / name).write_text((SCRIPTS / name).read_text())
    class_folders(tmp_path / "images")
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.setattr(sys, "argv", line.split())
    runpy.run_path(line.split()[0], run_name="__main__")


@pytest.mark.parametrize("script", FLAGS)
def test_flags_and_defaults_are_those_of_nnis_scripts(
    script: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit, match="0"):
        run(monkeypatch, f"{script} --help")
    found = re.findall(r"^  --([\w-]+).*?\(default: (\S*)\)$", capsys.readouterr().out, flags=re.MULTILINE | re.DOTALL)
    assert dict(found) == {name: str(default) for name, default in FLAGS[script].items()}


def test_the_documented_lines_search_and_retrain(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = "--layers 3 --batch-size 4 --data folder:images"
    line = f"search.py {quick} --channels 2 --epochs 2"
    run(monkeypatch, line)
    assert "python3 retrain.py --arc-checkpoint ./checkpoints/epoch_1.json" in capsys.readouterr().out
    assert sorted(file.name for file in Path("checkpoints").iterdir()) == ["epoch_0.json", "epoch_1.json"]
    run(monkeypatch, line)  # goes on: nothing is left to do
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, f"{line} --unrolled")
    assert "asked for 'unrolled'" in capsys.readouterr().err

    line = f"retrain.py {quick} --arc-checkpoint ./checkpoints/epoch_1.json --epochs 1 --workers 0"
    run(monkeypatch, line)
    assert "Test accuracy: " in capsys.readouterr().out
    assert ag.Architecture.load("retrain-run/architecture.json") == ag.Architecture.load("checkpoints/epoch_1.json")
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, f"{line} --aux-weight 0")
    assert "auxiliary_weight" in capsys.readouterr().err


def test_architectures_of_another_search_are_left_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("checkpoints").mkdir()
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, "search.py --data digits")
    assert "checkpoints is there already" in capsys.readouterr().err
    assert not Path("search-run").exists()


def test_what_cannot_be_used_is_said_without_a_traceback(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for line, message in (
        ("search.py --data folder:nowhere", "does not exist"),
        ("search.py --data digits --epochs -1", "epochs must be"),
        ("retrain.py", "epoch_0.json"),
    ):
        with pytest.raises(SystemExit, match="2"):
            run(monkeypatch, line)
        assert message in capsys.readouterr().err
    assert not Path("search-run").exists()


def test_the_space_of_ones_own_is_searched_and_retrained(folder: Path) -> None:
    space = f"{EXAMPLES / 'mobile_space.py'}:MobileSpace"
    quick = ["--space", space, "--channels", "2", "--data", "folder:images", "--batch-size", "4", "--epochs", "1"]
    assert main(["search", *quick, "--out", "found"]) == 0
    choices = ag.Architecture.load("found/checkpoints/epoch_0.json").choices
    assert len(choices) == 9
    assert "none" not in {choices[f"block{k}"] for k in (0, 3, 6)}  # those change the shape
    assert main(["retrain", "--arch", "found", *quick, "--cutout", "0", "--out", "trained"]) == 0
