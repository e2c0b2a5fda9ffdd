"""Figures reach TensorBoard always, and other loggers when asked for and installed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch import nn

import archgrad as ag
from archgrad.errors import OptionError
from archgrad.runs import open_loggers

CONFIG = {"epochs": 2, "space": {"channels": 16}, "cutout": None, "betas": [0.5, 0.999]}
ROW = {"epoch": 0, "train_loss": 0.5, "valid_loss": 0.75, "temperature": None, "note": "text", "skips": 3}


def events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


def test_tensorboard_holds_scalars_pictures_and_options(tmp_path: Path) -> None:
    with open_loggers(tmp_path, config=CONFIG) as loggers:
        loggers.log_metrics(ROW, 0)
        loggers.log_metrics({**ROW, "train_loss": 0.25}, 1)
        loggers.log_image("cell/normal", np.zeros((4, 6, 3), dtype=np.uint8), 1)
        loggers.log_image("alphas", np.zeros((4, 6), dtype=np.uint8), 1)
    assert [path.name.startswith("events.out.tfevents") for path in tmp_path.iterdir()] == [True]
    read = events(tmp_path)
    assert sorted(read.Tags()["scalars"]) == ["loss/train", "loss/valid", "skips"]
    assert [(event.step, event.value) for event in read.Scalars("loss/train")] == [(0, 0.5), (1, 0.25)]
    assert sorted(read.Tags()["images"]) == ["alphas", "cell/normal"]
    assert any("hparams" in str(tag) for tag in read.summary_metadata)


def test_a_resumed_run_hides_what_is_computed_again(tmp_path: Path) -> None:
    for first_epoch, value in ((0, 1.0), (1, 2.0)):
        with open_loggers(tmp_path, config=CONFIG, first_epoch=first_epoch) as loggers:
            for epoch in range(first_epoch, 3):
                loggers.log_metrics({"train_loss": value}, epoch)
    assert [(event.step, event.value) for event in events(tmp_path).Scalars("loss/train")] == [(0, 1), (1, 2), (2, 2)]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_logger_that_is_not_installed_is_named_with_its_remedy(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(OptionError, match=rf"pip install 'archgrad\[{name}\]'"):
        open_loggers(tmp_path, config=CONFIG, **{name: "project"})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("array", [np.zeros((4, 6, 3)), np.zeros((3, 4, 6), dtype=np.uint8)])
def test_a_picture_of_another_kind_is_an_error(array: Any, tmp_path: Path) -> None:
    with open_loggers(tmp_path, config=CONFIG) as loggers, pytest.raises(OptionError, match="A picture must be"):
        loggers.log_image("cell", array, 0)


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="the extra 'wandb' is not installed")
def test_wandb_takes_figures_and_a_resumed_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    for epoch in range(2):
        with open_loggers(tmp_path, config=CONFIG, first_epoch=epoch, wandb="project") as loggers:
            loggers.log_metrics(ROW, epoch)
            loggers.log_image("cell", np.zeros((4, 6, 3), dtype=np.uint8), epoch)
        identity = (tmp_path / "wandb-id.txt").read_text().strip()
        assert len(list(tmp_path.glob(f"wandb/offline-run-*{identity}"))) >= 1


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="the extra 'mlflow' is not installed")
def test_mlflow_takes_figures_and_a_resumed_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.chdir(tmp_path)  # artifacts go to ./mlruns
    run = tmp_path / "run"
    run.mkdir()
    for epoch in range(2):
        with open_loggers(run, config=CONFIG, first_epoch=epoch, mlflow="experiment") as loggers:
            loggers.log_metrics(ROW, epoch)
            loggers.log_image("cell", np.zeros((4, 6, 3), dtype=np.uint8), epoch)
    client = mlflow.tracking.MlflowClient()
    identity = (run / "mlflow-id.txt").read_text().strip()
    assert [info.path for info in client.list_artifacts(identity, "cell")] == ["cell/0.png", "cell/1.png"]
    assert [metric.step for metric in client.get_metric_history(identity, "train_loss")] == [0, 1]
    assert client.get_run(identity).data.params["space.channels"] == "16"
    assert client.get_run(identity).info.status == "FINISHED"


class FakeWandb:
    """A package that notes what it is told."""

    class Image:
        def __init__(self, array: Any) -> None:
            self.shape = array.shape

    def __init__(self) -> None:
        self.started: list[dict[str, Any]] = []
        self.logged: list[dict[str, Any]] = []
        self.finished = 0
        self.id = "abc"

    def init(self, **options: Any) -> FakeWandb:
        self.started.append(options)
        return self

    def define_metric(self, *names: str, **options: str) -> None:
        pass

    def log(self, row: dict[str, Any]) -> None:
        self.logged.append(row)

    def finish(self) -> None:
        self.finished += 1


class FakeMlflow:
    """The same, for its client."""

    def __init__(self) -> None:
        self.tracking = SimpleNamespace(MlflowClient=lambda: self)
        self.names: list[str | None] = []
        self.params: dict[str, str] = {}
        self.metrics: list[tuple[str, int]] = []
        self.images: list[str] = []
        self.ended: list[str] = []

    def get_experiment_by_name(self, name: str) -> None:
        return None

    def create_experiment(self, name: str) -> str:
        return "1"

    def create_run(self, experiment: str, *, run_name: str | None) -> Any:
        self.names.append(run_name)
        return SimpleNamespace(info=SimpleNamespace(run_id="abc"))

    def log_param(self, run: str, name: str, value: str) -> None:
        self.params[name] = value

    def log_metric(self, run: str, name: str, value: float, *, step: int) -> None:
        self.metrics.append((name, step))

    def log_image(self, run: str, picture: Any, *, artifact_file: str) -> None:
        self.images.append(artifact_file)

    def set_terminated(self, run: str) -> None:
        self.ended.append(run)


def test_loggers_that_are_asked_for_work_without_a_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb, mlflow = FakeWandb(), FakeMlflow()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.chdir(tmp_path)
    options: dict[str, Any] = {"batch_size": 256, "epochs": 2, "quiet": True, "device": "cpu"}
    options |= {"wandb": "project", "mlflow": "experiment"}
    ag.search("tiny", "digits", **options)
    assert [row["epoch"] for row in wandb.logged if "train_loss" in row] == [0, 1]
    assert any(isinstance(value, FakeWandb.Image) for row in wandb.logged for value in row.values())
    assert wandb.started[0]["project"] == "project"
    assert not {"dir", "id", "name"} & wandb.started[0].keys()
    assert ("valid_loss", 1) in mlflow.metrics
    assert mlflow.images
    assert mlflow.params["batch_size"] == "256"
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    ag.retrain(network, "digits", **options)
    assert ("test_accuracy", 1) in mlflow.metrics
    assert (wandb.finished, mlflow.ended, mlflow.names) == (2, ["abc", "abc"], [None, None])
    assert list(tmp_path.iterdir()) == []


def test_without_a_folder_nothing_is_logged_that_was_not_asked_for(tmp_path: Path) -> None:
    with open_loggers(None, config=CONFIG) as loggers:
        assert not loggers
        loggers.log_metrics(ROW, 0)
