"""`archgrad export` and `archgrad predict`, as typed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from PIL import Image

from archgrad.cli import main
from archgrad.export import ModelDescription
from archgrad.retrain import RetrainResult

OWN_SPACE = """
import pathlib
import archgrad as ag
pathlib.Path(__file__).with_name("it ran").touch()
def net(num_classes, in_channels, channels, stage):
    assert stage == "retrain"
    return ag.spaces.tiny(channels, num_classes, in_channels=in_channels)
"""


@pytest.fixture
def image(tmp_path: Path) -> Path:
    file = tmp_path / "grey.png"
    Image.new("RGB", (20, 31), (90, 90, 90)).save(file)
    return file


def test_exported_by_one_command_and_used_by_the_other(
    finished: RetrainResult, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finished.run_dir is not None
    onnx, program = tmp_path / "net.onnx", tmp_path / "net.pt2"
    assert main(["export", str(finished.run_dir), "--onnx", str(onnx), "--torch", str(program)]) == 0
    out = capsys.readouterr().out
    assert f"{onnx}: ONNX, logits within " in out
    assert f"archgrad predict {onnx} IMAGE..." in out
    assert ModelDescription.load(tmp_path / "net.json").classes == tuple("0123456789")
    assert program.stat().st_size > 1000

    assert main(["predict", str(onnx), str(image), "--json", "--top", "2"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["image"] == str(image)
    assert len(found["classes"]) == 2
    assert main(["predict", str(finished.run_dir), str(image), str(image)]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0] == table[6] == str(image)
    assert table[1] == f"  {found['classes'][0]['class']}  {100 * found['classes'][0]['probability']:6.2f} %"
    assert len(table) == 12


def test_what_cannot_be_done_ends_with_status_2(
    finished: RetrainResult, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(finished.run_dir)
    for arguments, message in (
        (["export", run], "Give --onnx FILE.onnx, --torch FILE.pt2, or both"),
        (["export", str(tmp_path), "--onnx", "net.onnx"], "no run folder"),
        (["export", run, "--onnx", "net.pt"], "must end in .onnx"),
        (["predict", run, str(tmp_path / "none.png")], "is no file"),
        (["predict", "net.pt2", str(image)], "can run any code"),
        (["predict", run, str(image), "--top", "0"], "top must be at least 1"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("Error: ")
        assert message in error


def test_a_space_of_one_s_own_runs_only_when_named(
    run_dir: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "own_space_of_export.py"
    file.write_text(OWN_SPACE)
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    (run_dir / "config.yaml").write_text(yaml.safe_dump({**config, "space": f"{file}:net"}))
    assert main(["predict", str(run_dir), str(image)]) == 2
    assert f"--space {file}:net" in capsys.readouterr().err
    assert not (tmp_path / "it ran").exists()
    assert main(["predict", str(run_dir), str(image), "--space", f"{file}:net"]) == 0
    own = capsys.readouterr().out
    assert (tmp_path / "it ran").exists()
    (run_dir / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["predict", str(run_dir), str(image)]) == 0
    assert capsys.readouterr().out == own


def test_names_of_classes_cannot_steer_the_terminal(
    run_dir: Path, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = json.loads((run_dir / "summary.json").read_text())
    summary["classes"] = [f"\x1b[2J{name}" for name in summary["classes"]]
    (run_dir / "summary.json").write_text(json.dumps(summary))
    assert main(["predict", str(run_dir), str(image)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\\x1b[2J" in out


def test_what_the_command_line_retrained_can_be_exported(
    tmp_path: Path, run_dir: Path, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(run_dir / "architecture.json", tmp_path / "arch.json")
    trained = tmp_path / "trained"
    typed = "--channels 3 --epochs 1 --batch-size 16 --train-samples 32 --drop-path 0 --quiet --device cpu"
    arguments = ["retrain", "--arch", str(tmp_path / "arch.json"), "--out", str(trained), *typed.split()]
    assert main(arguments) == 0
    capsys.readouterr()
    assert main(["predict", str(trained), str(image), "--weights", "best", "--top", "1"]) == 0
    assert "%" in capsys.readouterr().out
