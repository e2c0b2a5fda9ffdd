"""A finished run goes on with more epochs where its first ones would have been the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

import archgrad as ag
from archgrad.engine.on_epoch import EpochState
from archgrad.errors import RunError
from archgrad.methods import Ensemble
from archgrad.operations import DropPath
from archgrad.optimizers import Adam
from archgrad.schedules import Linear
from archgrad.selection import PerturbationBased

OPTIONS: dict[str, Any] = {"batch_size": 16, "quiet": True, "device": "cpu"}


PAIR = torch.randn(64, 4, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 2


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.2), DropPath(), nn.Linear(6, 2))


def retrained(epochs: int, **options: Any) -> ag.RetrainResult:
    given = {"drop_path": 0.0, "schedule": "constant", **OPTIONS, **options}
    return ag.retrain(network(), PAIR, epochs=epochs, **given)


def searched(epochs: int, **options: Any) -> ag.SearchResult:
    torch.manual_seed(0)
    space = nn.Sequential(ag.LayerChoice({"linear": nn.Linear(4, 2), "other": nn.Linear(4, 2)}, label="layer"))
    return ag.search(space, PAIR, epochs=epochs, **{"schedule": "constant", "method": "darts", **OPTIONS, **options})


@pytest.mark.parametrize("schedule", ["constant", "exponential"])
def test_a_retraining_of_more_epochs_is_what_it_would_have_been_from_the_start(tmp_path: Path, schedule: str) -> None:
    whole = retrained(3, schedule=schedule)
    retrained(1, run_dir=tmp_path, schedule=schedule)
    longer = retrained(3, run_dir=tmp_path, resume=True, schedule=schedule)
    assert longer.history == whole.history
    for name, value in whole.network.state_dict().items():
        assert torch.equal(longer.network.state_dict()[name], value)
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["epochs"] == 3
    with pytest.raises(RunError, match=r"epochs: the run has 3, asked for 2\nGive the run's own"):
        retrained(2, run_dir=tmp_path, resume=True, schedule=schedule)


def test_a_search_of_more_epochs_is_what_it_would_have_been_from_the_start(tmp_path: Path) -> None:
    whole = searched(3)
    searched(2, run_dir=tmp_path)
    longer = searched(3, run_dir=tmp_path, resume=True)
    assert longer.history == whole.history
    assert longer.architecture.choices == whole.architecture.choices
    assert (tmp_path / "checkpoints" / "epoch_2.json").is_file()
    again = searched(3, run_dir=tmp_path, resume=True)
    assert again.history == whole.history


@pytest.mark.parametrize(
    ("run", "options", "why"),
    [
        (retrained, {"schedule": "cosine"}, "the learning rate falls along half a cosine"),
        (retrained, {"schedule": "linear"}, "the learning rate falls along a straight line"),
        (retrained, {"drop_path": 0.1}, "the rate of drop_path grows over them"),
        (searched, {"schedule": "cosine"}, "the learning rate falls along half a cosine"),
        (
            searched,
            {"method": ag.Method(alphas_optimizer=Adam(learning_rate=Linear(1e-3, 1e-4)))},
            "learning_rate of Adam changes over them",
        ),
        (searched, {"method": None}, "the temperature of SoftGumbel changes over them"),  # the default
        (searched, {"method": "gdas"}, "the temperature of Gumbel changes over them"),
        (searched, {"method": ag.Method(stages=(ag.methods.Stage(epochs=1),))}, "the stages of the method share them"),
        (searched, {"method": ag.Method(ensemble=Ensemble(members=2))}, "Ensemble goes by them"),
        (searched, {"method": ag.Method(selection=PerturbationBased(tune_epochs=1))}, "PerturbationBased goes by them"),
    ],
)
def test_where_the_length_counts_from_the_first_epoch_on_that_is_said(
    tmp_path: Path, run: Any, options: dict[str, Any], why: str
) -> None:
    run(1, run_dir=tmp_path, **options)
    with pytest.raises(RunError, match=f"The epochs cannot become more, as {why}"):
        run(2, run_dir=tmp_path, resume=True, **options)
    run(1, run_dir=tmp_path, resume=True, **options)


def test_a_run_that_was_ended_for_good_stays_so(tmp_path: Path) -> None:
    def at_once(state: EpochState) -> bool:
        return True

    searched(2, run_dir=tmp_path, on_epoch=at_once)
    with pytest.raises(RunError, match="was ended for good after epoch 1, by patience or on_epoch"):
        searched(4, run_dir=tmp_path, resume=True)
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["epochs"] == 2
