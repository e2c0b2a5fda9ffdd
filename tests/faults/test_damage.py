"""Damaged checkpoints, a folder in use, clocks that jump: each has its law."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from archgrad.errors import RunError
from archgrad.runs import read_metrics

from .runs import loss_that, outcome, search


class PowerCut(BaseException):
    """Ends a run as nothing in it expects."""


def cut() -> None:
    raise PowerCut


def cut_run(folder: Path) -> None:
    """Leave a run with two checkpoints, of steps 2 and 4."""
    with pytest.raises(PowerCut):
        search(folder, loss=loss_that(cut, step=5), checkpoint_steps=2)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, empty])
def test_a_damaged_checkpoint_costs_the_work_since_the_one_before(
    damage: Callable[[Path], None], tmp_path: Path, uninterrupted: dict[str, bytes]
) -> None:
    cut_run(tmp_path / "run")
    damage(tmp_path / "run" / "checkpoints" / "last.ckpt")
    with pytest.warns(UserWarning, match=r"last\.ckpt.*Going on from the older 'previous\.ckpt'"):
        search(tmp_path / "run", resume=True)
    assert outcome(tmp_path / "run") == uninterrupted


def test_a_lost_checkpoint_costs_the_work_since_the_one_before(tmp_path: Path, uninterrupted: dict[str, bytes]) -> None:
    cut_run(tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "last.ckpt").unlink()
    search(tmp_path / "run", resume=True)
    assert outcome(tmp_path / "run") == uninterrupted


def test_two_damaged_checkpoints_are_an_error_that_names_both(tmp_path: Path) -> None:
    cut_run(tmp_path / "run")
    for name in ("last.ckpt", "previous.ckpt"):
        flip_a_bit(tmp_path / "run" / "checkpoints" / name)
    with pytest.raises(RunError, match=r"last\.ckpt.*previous\.ckpt.*No intact checkpoint is left; start anew"):
        search(tmp_path / "run", resume=True)


def test_damaged_metrics_of_finished_epochs_are_said_aloud(tmp_path: Path) -> None:
    cut_run(tmp_path / "run")
    empty(tmp_path / "run" / "metrics.csv")
    with pytest.warns(UserWarning, match=r"metrics\.csv' has 0 of the 1 epochs"):
        search(tmp_path / "run", resume=True)
    assert [row["epoch"] for row in read_metrics(tmp_path / "run" / "metrics.csv")] == [1, 2]


def test_a_second_search_in_the_folder_is_refused_and_the_first_goes_on(
    tmp_path: Path, uninterrupted: dict[str, bytes]
) -> None:
    refused = []

    def second() -> None:
        for options in ({"resume": True}, {"overwrite": True}):
            with (
                torch.random.fork_rng(),
                pytest.raises(RunError, match=rf"in use by another process \(process {os.getpid()} on"),
            ):
                search(tmp_path / "run", **options)
            refused.append(options)

    search(tmp_path / "run", loss=loss_that(second, step=4))
    assert len(refused) == 2
    assert outcome(tmp_path / "run") == uninterrupted


@pytest.mark.parametrize("jump", [-1e6, 1e6])
def test_a_clock_that_jumps_changes_nothing(
    jump: float, tmp_path: Path, uninterrupted: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = time.time, 0

    def jumping() -> float:
        nonlocal calls
        calls += 1
        return real() + calls * jump

    with monkeypatch.context() as patch:
        patch.setattr(time, "time", jumping)
        with pytest.raises(PowerCut):
            search(tmp_path / "run", loss=loss_that(cut, step=5), checkpoint_steps=2)
        search(tmp_path / "run", resume=True)
    assert outcome(tmp_path / "run") == uninterrupted
    for row in read_metrics(tmp_path / "run" / "timings.csv"):
        assert 0 < row["seconds"] < 600
        assert 0 <= row["checkpoint_seconds"] < row["seconds"]


def test_other_options_are_refused_by_name_and_speed_is_no_option_of_the_result(
    tmp_path: Path, uninterrupted: dict[str, bytes]
) -> None:
    cut_run(tmp_path / "run")
    with pytest.raises(RunError) as caught:
        search(tmp_path / "run", resume=True, epochs=9, cutout=0)
    assert "\n  epochs: the run has 3, asked for 9\n" in str(caught.value)
    assert "\n  cutout: the run has 3, asked for 0\n" in str(caught.value)
    search(tmp_path / "run", resume=True, checkpoint_steps=1, checkpoint_minutes=1.0)
    assert outcome(tmp_path / "run") == uninterrupted
