"""Figures reach TensorBoard always, and other loggers when asked for and installed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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
