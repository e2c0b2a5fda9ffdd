"""A run ends where what it watches has not got better for some epochs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import archgrad as ag
from archgrad.engine.patience import has_stalled
from archgrad.errors import OptionError
from archgrad.methods import Ensemble


@pytest.mark.parametrize(
    ("column", "values", "ends"),
    [
        ("valid_loss", [3, 2, 1, 1, 2, 0], [False, False, False, False, True, False]),
        ("valid_accuracy", [0.1, 0.3, 0.2, 0.3, 0.4], [False, False, False, True, False]),
        ("test_rmse", [3, float("nan"), float("nan")], [False, False, True]),
        ("valid_loss", [None, None, None, 2, 3, 3], [False, False, False, False, False, True]),
        ("valid_loss", [float("inf"), 1], [False, False]),
    ],
)
def test_epochs_without_a_better_value_are_counted(column, values, ends):
    rows = [{"epoch": epoch, column: value} for epoch, value in enumerate(values)]
    assert [has_stalled(rows[: epoch + 1], patience=2, watch=column) for epoch in range(len(rows))] == ends


def test_the_task_says_which_values_of_a_metric_of_ones_own_are_best():
    rows = [{"epoch": epoch, "valid_pinball": value} for epoch, value in enumerate([3, 2, 1])]
    assert not has_stalled(rows, patience=2, watch="valid_pinball", directions={"pinball": "lowest"})
    assert has_stalled(rows, patience=2, watch="valid_pinball", directions={"pinball": "highest"})
    loss = nn.functional.l1_loss
    task = ag.tasks.Task(loss=loss, metrics={"pinball": loss, "r2": loss}, best="pinball", best_is="lowest")
    assert task.directions == {"loss": "lowest", "pinball": "lowest", "r2": "highest"}


def space() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(ag.LayerChoice({"linear": nn.Linear(4, 2), "deep": nn.Linear(4, 2)}, label="layer"))


def pair():
    return torch.randn(32, 4, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 2


def searched(**options):
    given = {"epochs": 9, "batch_size": 8, "quiet": True, "device": "cpu", "learning_rate": 5.0, **options}
    return ag.search(space(), pair(), **given)


def test_a_search_ends_early_and_alike_when_it_was_interrupted(tmp_path: Path):
    whole = searched(patience=2, schedule="constant")
    losses = [row["valid_loss"] for row in whole.history]
    assert 2 < len(losses) < 9
    assert min(losses) == losses[-3]

    def interrupt(state):
        if state.epoch == 1:
            raise KeyboardInterrupt

    options = {"patience": 2, "schedule": "constant", "run_dir": tmp_path / "run"}
    with pytest.raises(KeyboardInterrupt):
        searched(**options, on_epoch=interrupt)
    resumed = searched(**options, resume=True)
    assert resumed.history == whole.history
    assert resumed.architecture.choices == whole.architecture.choices
    again = searched(**options, resume=True)  # it is over, and stays so
    assert again.history == whole.history


def test_what_cannot_be_watched_is_told():
    with pytest.raises(OptionError, match=r"patience must be .* at least 1"):
        searched(patience=0)
    with pytest.raises(OptionError, match="watch='valid_loss' says what patience looks at"):
        searched(watch="valid_loss")
    with pytest.raises(OptionError, match=r"no column 'valid_lost' to watch\. Did you mean 'valid_loss'"):
        searched(patience=1, watch="valid_lost")
    with pytest.raises(OptionError, match="members of an ensemble"):
        searched(patience=1, method=ag.Method(ensemble=Ensemble(members=2)))
