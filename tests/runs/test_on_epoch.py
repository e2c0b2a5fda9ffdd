"""What a caller is told at the end of each epoch, and how a run ends that is asked to, or whose time is up."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import archgrad as ag
from archgrad.engine import EpochState
from archgrad.errors import OptionError
from archgrad.retrain import retrain
from archgrad.runs import Interrupted, OutOfTime, read_metrics

Run = Callable[..., Any]
EPOCHS = 3


def data() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    return x, (x[:, 0] > 0).long()


def searched(**options: Any) -> Any:
    torch.manual_seed(0)
    layer = ag.LayerChoice({"linear": nn.Linear(4, 4), "skip": nn.Identity()}, label="layer")
    space = nn.Sequential(layer, nn.Dropout(0.2), nn.Linear(4, 2))
    return ag.search(space, data(), **{"epochs": EPOCHS, "batch_size": 8, "quiet": True, "device": "cpu", **options})


def retrained(**options: Any) -> Any:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Dropout(0.2), nn.Linear(4, 2))
    options = {"epochs": EPOCHS, "batch_size": 8, "quiet": True, "device": "cpu", "cutout": 0, **options}
    return retrain(network, data(), **options)


BOTH = pytest.mark.parametrize("run", [searched, retrained])


@BOTH
def test_each_epoch_is_told_once_and_the_run_is_as_without(run: Run) -> None:
    states: list[EpochState] = []

    def look(state: EpochState) -> None:
        states.append(state)
        state.network.eval()
        torch.rand(3)
        random.random()

    result = run(on_epoch=look)
    assert result.history == run().history == [dict(state.row) for state in states]
    assert [(state.epoch, state.epochs) for state in states] == [(epoch, EPOCHS) for epoch in range(EPOCHS)]
    assert states[-1].architecture == (result.architecture if run is searched else None)
    assert states[-1].network is (result.supernet if run is searched else result.network)
    with pytest.raises(TypeError):
        states[0].row["train_loss"] = 0.0  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        states[0].epoch = 7  # type: ignore[misc]


@BOTH
def test_true_ends_the_run_for_good(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told: list[int] = []

    def second(state: EpochState) -> bool:
        return state.epoch == 1

    functions = [lambda state: told.append(state.epoch), second]
    result = run(on_epoch=functions, run_dir=tmp_path / "run", quiet=False)
    assert "Stopped after epoch 2: on_epoch asked for it." in "".join(capsys.readouterr())
    assert result.history == run().history[:2] == read_metrics(tmp_path / "run" / "metrics.csv")
    again = run(run_dir=tmp_path / "run", resume=True, on_epoch=functions)
    assert again.history == result.history
    assert told == [0, 1]


@pytest.mark.parametrize("truth", [True, np.True_, torch.tensor(True), torch.tensor([True])])
def test_a_run_without_a_folder_can_be_stopped_too(truth: Any) -> None:
    assert len(searched(on_epoch=lambda state: truth).history) == 1
    assert len(searched(on_epoch=lambda state: not truth).history) == EPOCHS


@BOTH
def test_a_run_whose_time_is_up_is_saved_and_goes_on_to_the_same_end(run: Run, tmp_path: Path) -> None:
    limit = {"run_dir": tmp_path / "run", "max_minutes": 1e-9, "resume": "auto"}
    with pytest.raises(OutOfTime, match="1e-09 minutes") as caught:
        run(**limit)
    assert isinstance(caught.value, Interrupted)
    assert caught.value.code == 124
    assert read_metrics(tmp_path / "run" / "metrics.csv") == []  # one step was taken
    result = run(**limit | {"max_minutes": 60.0})
    assert result.history == run().history


@BOTH
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"on_epoch": 3}, "on_epoch must be a function"),
        ({"on_epoch": [print, "stop"]}, "on_epoch must be a function"),
        ({"on_epoch": lambda state: {"mine": 1.0}}, "must return True.*after epoch 1"),
        ({"on_epoch": lambda state: torch.tensor(1.0)}, "must return True.*after epoch 1"),
        ({"max_minutes": 0}, "max_minutes must be a finite number above 0"),
        ({"max_minutes": float("nan")}, "max_minutes must be a finite number above 0"),
        ({"max_minutes": 5}, "max_minutes needs a run folder"),
    ],
)
def test_what_cannot_be_honoured_is_refused(run: Run, options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        run(**options)
