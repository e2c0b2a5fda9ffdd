"""SIGTERM and SIGINT finish the step, save, and end with 128 + signal; a second one ends at once."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from archgrad.runs import Interrupted

from .campaign import ended, fork
from .problems import PROBLEMS, position, results, run_trainer
from .runs import STEPS, loss_that, outcome, search


def wait_for(file: Path) -> None:
    until = time.monotonic() + 120
    while not file.exists():
        assert time.monotonic() < until, f"{file} did not appear"
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("step", [0, 2, 4, 8])
def test_a_signal_finishes_the_step_saves_and_ends(
    number: signal.Signals, step: int, tmp_path: Path, uninterrupted: dict[str, bytes]
) -> None:
    with pytest.raises(Interrupted) as caught:
        search(tmp_path / "run", loss=loss_that(lambda: os.kill(os.getpid(), number), step=step))
    assert caught.value.code == 128 + number
    epoch, done = position(tmp_path / "run")
    assert epoch * STEPS + done == step + 1
    search(tmp_path / "run", resume=True)
    assert outcome(tmp_path / "run") == uninterrupted


def test_the_message_says_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Interrupted):
        search(tmp_path / "run", loss=loss_that(lambda: os.kill(os.getpid(), signal.SIGTERM), step=4), quiet=False)
    text = capsys.readouterr().err
    assert "interrupted by SIGTERM in epoch 2, before step 3" in text
    assert f"it is saved in '{tmp_path / 'run'}'. Go on with resume=True." in text
    assert "archgrad search" not in text  # which refuses a run of Python's


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_second_signal_ends_a_search_at_once_and_it_goes_on_from_the_last_checkpoint(
    tmp_path: Path, uninterrupted: dict[str, bytes]
) -> None:
    run, reached = tmp_path / "run", tmp_path / "reached"

    def a_step_that_takes_a_minute() -> None:
        reached.touch()
        until = time.monotonic() + 60
        while time.monotonic() < until:  # a signal ends a sleep, but not the work of a step
            time.sleep(0.05)

    loss = loss_that(a_step_that_takes_a_minute, step=5)
    child = fork(lambda: search(run, loss=loss, checkpoint_steps=2), tmp_path / "log")
    wait_for(reached)
    os.kill(child, signal.SIGTERM)
    time.sleep(0.4)
    sent = time.monotonic()
    os.kill(child, signal.SIGINT)
    assert ended(child) == 128 + signal.SIGINT
    assert time.monotonic() - sent < 10
    assert position(run) == (1, 2)
    search(run, resume=True)
    assert outcome(run) == uninterrupted


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_killed_run_with_data_workers_goes_on_though_its_workers_live_a_little_longer(tmp_path: Path) -> None:
    run_trainer(tmp_path / "whole", resume=False)
    run = tmp_path / "run"
    child = fork(lambda: run_trainer(run, resume=False, workers=1), tmp_path / "log")
    wait_for(run / "checkpoints" / "last.ckpt")
    os.kill(child, signal.SIGKILL)
    assert ended(child) == -signal.SIGKILL
    run_trainer(run, resume=True)
    assert results(PROBLEMS["trainer"], run) == results(PROBLEMS["trainer"], tmp_path / "whole")


def test_the_command_line_goes_on_with_nothing_but_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from archgrad.cli import main
    from archgrad.search import search_run

    options = ["--space", "tiny", "--channels", "2", "--train-samples", "64", "--batch-size", "16", "--epochs", "2"]
    options += ["--relaxation", "gumbel", "--seed", "4", "--quiet"]
    assert main(["search", *options, "--out", str(tmp_path / "whole")]) == 0

    real_step, calls = search_run.search_step, 0

    def step(*arguments: object, **named: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return real_step(*arguments, **named)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(search_run, "search_step", step)
        with pytest.raises(SystemExit) as caught:
            main(["search", *options, "--out", str(tmp_path / "run")])
    assert caught.value.code == 128 + signal.SIGTERM
    assert f"archgrad search --resume {tmp_path / 'run'}" in capsys.readouterr().out
    assert main(["search", "--resume", str(tmp_path / "run"), "--epochs", "3"]) == 2
    assert "epochs: the run has 2, asked for 3" in capsys.readouterr().err
    assert main(["search", "--resume", str(tmp_path / "run")]) == 0
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")
