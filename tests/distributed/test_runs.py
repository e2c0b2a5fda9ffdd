"""Runs of two processes: who writes, how they stop, and how they go on, with two processes and with one."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import problems
import pytest
import torch
from ranks import Ranks

import archgrad as ag


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def two(folder: Path) -> list[dict[str, Any]]:
    return Ranks("worker_runs.py", folder, str(folder)).results()


def metrics(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("command", ["search", "retrain", "trainer"])
def test_a_signal_to_one_process_stops_all_with_its_status(two: list[dict[str, Any]], command: str) -> None:
    assert [each[f"{command}, signalled"] for each in two] == [{"status": 128 + 15}] * 2


@pytest.mark.parametrize("command", ["search", "retrain"])
def test_a_resumed_run_is_the_uninterrupted_one(two: list[dict[str, Any]], folder: Path, command: str) -> None:
    for each in two:
        for name, value in each[command]["state"].items():
            assert torch.equal(each[f"{command}, resumed"]["state"][name], value), name
    whole, resumed = ((folder / name / "metrics.csv").read_bytes() for name in (command, f"{command}-2"))
    assert resumed == whole


def test_a_run_that_is_told_to_stop_ends_on_both(two: list[dict[str, Any]], folder: Path) -> None:
    assert metrics(folder / "search-3") == metrics(folder / "search")[:1]
    for name, value in two[0]["search, told to stop"]["state"].items():
        if "running" not in name:
            assert torch.equal(two[1]["search, told to stop"]["state"][name], value), name


def test_a_run_whose_time_is_up_ends_on_both_and_goes_on(two: list[dict[str, Any]], folder: Path) -> None:
    assert [each["search, out of time"] for each in two] == [{"status": 124}] * 2
    for each in two:
        for name, value in each["search"]["state"].items():
            assert torch.equal(each["search, in time"]["state"][name], value), name
    assert metrics(folder / "search-4") == metrics(folder / "search")


def test_the_trainer_of_two_processes_ends_alike_on_both_and_goes_on(two: list[dict[str, Any]], folder: Path) -> None:
    assert two[0]["trainer"] == two[1]["trainer"]
    assert [each["trainer, resumed"] for each in two] == [each["trainer"] for each in two]
    whole, resumed = ((folder / name / "metrics.csv").read_bytes() for name in ("trainer", "trainer-2"))
    assert resumed == whole
    assert len(list((folder / "trainer").glob("events.*"))) == 1


def test_process_0_alone_writes(two: list[dict[str, Any]], folder: Path) -> None:
    assert len(list((folder / "search").glob("events.*"))) == 1
    assert [row["epoch"] for row in metrics(folder / "search")] == ["0", "1"]
    assert [row["epoch"] for row in metrics(folder / "retrain")] == ["0", "1"]


def test_dropout_differs_between_processes_and_buffers_are_those_of_process_0(two: list[dict[str, Any]]) -> None:
    # With the same masks on the same weights the two would differ only by data; that they are equal in every buffer
    # after the run is because those of process 0 are taken.
    for name, value in two[0]["search"]["state"].items():
        assert torch.equal(two[1]["search"]["state"][name], value), name


def test_one_process_goes_on_with_the_search_of_two(
    two: list[dict[str, Any]], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Broken off in epoch 1 after 2 steps of 16 samples of 45; with batches of 8 that is before step 5 of 6.
    supernet = ag.Supernet(problems.dropping_space(), ag.relaxation.Gumbel(), seed=3)
    result = ag.search(
        supernet, problems.images(), epochs=2, batch_size=8, seed=3, device="cpu",
        run_dir=folder / "search-1", resume=True,
    )  # fmt: skip
    said = capsys.readouterr().err
    assert "goes on with 1 processes in place of 2, in epoch 1 before step 5 of 6" in said
    assert [row["epoch"] for row in result.history] == [0, 1]
    assert [row["epoch"] for row in metrics(folder / "search-1")] == ["0", "1"]


def test_one_process_goes_on_with_the_retraining_of_two(
    two: list[dict[str, Any]], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = ag.retrain(
        problems.Dropping(), problems.images(45, test=7), epochs=2, batch_size=8, seed=3, device="cpu", cutout=0,
        run_dir=folder / "retrain-1", resume=True,
    )  # fmt: skip
    assert "goes on with 1 processes in place of 2, in epoch 1 before step 5 of 6" in capsys.readouterr().err
    assert [row["epoch"] for row in result.history] == [0, 1]
