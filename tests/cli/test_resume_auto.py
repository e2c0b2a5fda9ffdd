"""`--resume auto`: one command that begins a run and goes on with it, however often it is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from archgrad.runs import RunFolder

from .typed import QUICK, Type, content

AUTO = ("--out", "a", "--resume", "auto")


def test_the_same_command_begins_and_goes_on(archgrad: Type) -> None:
    first = archgrad("search", *QUICK, *AUTO)
    assert (first.status, first.err) == (0, "")
    plain = archgrad("search", *QUICK, "--out", "b")
    assert first.out.replace(" a", " b") == plain.out.replace(" a", " b")
    before = content(Path("a"))
    assert before["config.yaml"] == content(Path("b"))["config.yaml"]
    again = archgrad("search", *QUICK, *AUTO)
    assert (again.status, again.out) == (0, first.out)  # nothing was left to do
    assert content(Path("a"))["metrics.csv"] == before["metrics.csv"]


def test_it_goes_on_from_the_checkpoint(archgrad: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = (*QUICK, "--epochs", 2)
    assert archgrad("search", *typed, "--out", "whole").status == 0
    save = RunFolder.save_checkpoint
    saved = []

    def save_once(*arguments: object, **options: object) -> None:
        if saved:
            raise KeyboardInterrupt
        saved.append(save(*arguments, **options))  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save_checkpoint", save_once)
        assert archgrad("search", *typed, *AUTO).status != 0
    assert saved
    assert archgrad("search", *typed, *AUTO).status == 0
    whole = content(Path("whole"))
    assert content(Path("a"))["checkpoints/epoch_1.json"] == whole["checkpoints/epoch_1.json"]


def test_other_options_than_those_of_the_run_are_refused(archgrad: Type) -> None:
    Path("c.yaml").write_text("command: search\nseed: 4\n")
    config = ("--config", "c.yaml")
    assert archgrad("search", *QUICK, *config, *AUTO).status == 0
    before = content(Path("a"))
    assert archgrad("search", *QUICK, *config, *AUTO).status == 0  # a config goes with it, and is not ignored
    Path("c.yaml").write_text("command: search\nseed: 5\n")
    for typed, difference in ((config, "seed: the run has 4, asked for 5"), (("--epochs", 3), "epochs: the run has 1")):
        outcome = archgrad("search", *QUICK, *typed, *AUTO)
        assert outcome.status == 2
        assert difference in outcome.err
    assert content(Path("a"))["metrics.csv"] == before["metrics.csv"]


def test_what_does_not_go_with_it_is_refused(archgrad: Type) -> None:
    for typed, message in (
        (("--resume", "auto"), "--resume auto needs the folder where the run is or begins. Give --out"),
        ((*AUTO, "--overwrite"), "--resume auto goes on with a run and --overwrite removes it"),
        (("--resume", "./auto"), "Cannot resume './auto'"),
    ):
        outcome = archgrad("search", *QUICK, *typed)
        assert outcome.status == 2
        assert message in outcome.err
    Path("letters").mkdir()
    Path("letters/to-mother.txt").write_text("Dear mother")
    outcome = archgrad("search", *QUICK, "--out", "letters", "--resume", "auto")
    assert outcome.status == 2
    assert "exists and is not empty" in outcome.err


def test_a_folder_called_auto_is_resumed_by_its_path(archgrad: Type) -> None:
    assert archgrad("search", *QUICK, "--out", "auto").status == 0
    assert archgrad("search", "--resume", "./auto", "--quiet").status == 0


def test_a_retraining_goes_on_without_what_it_came_from(searched: Path, archgrad: Type) -> None:
    file = Path("found.json")
    file.write_bytes((searched / "checkpoints" / "epoch_0.json").read_bytes())
    typed = ("retrain", "--arch", file, *QUICK[2:], *AUTO)
    first = archgrad(*typed)
    assert first.status == 0, first.err
    file.unlink()
    again = archgrad(*typed)
    assert (again.status, again.out) == (0, first.out)
