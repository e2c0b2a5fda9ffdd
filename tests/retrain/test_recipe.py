"""The recipe is the paper's, in numbers, and its options are checked."""

from __future__ import annotations

import inspect
import math
from dataclasses import fields
from typing import Any

import pytest

from archgrad.errors import OptionError
from archgrad.retrain import Recipe, retrain
from archgrad.runs import CheckpointSchedule


def test_the_learning_rate_of_an_epoch_is_the_authors_cosine() -> None:
    recipe = Recipe()
    assert recipe.learning_rate_in(0) == 0.025
    assert recipe.learning_rate_in(300) == pytest.approx(0.0125, rel=1e-12)
    # 0.025 (1 + cos(pi 599/600)) / 2 = 0.025 (pi/600)^2 / 4, up to the next power
    assert recipe.learning_rate_in(599) == pytest.approx(0.025 * (math.pi / 600) ** 2 / 4, rel=1e-5)
    # The search's schedule, last of 50 epochs, as seen in the authors' logs.
    assert Recipe(epochs=50, learning_rate_min=1e-3).learning_rate_in(49) == pytest.approx(1.0237e-3, rel=1e-4)


def test_drop_path_grows_from_nothing_by_epochs() -> None:
    recipe = Recipe(drop_path=0.3, epochs=600)
    assert [recipe.drop_path_in(epoch) for epoch in (0, 1, 300, 599)] == [0.0, 0.3 / 600, 0.15, 0.3 * 599 / 600]


def test_the_defaults_are_the_papers() -> None:
    recipe = Recipe()
    assert (recipe.epochs, recipe.batch_size, recipe.learning_rate, recipe.momentum) == (600, 96, 0.025, 0.9)
    assert (recipe.weight_decay, recipe.grad_clip, recipe.auxiliary_weight, recipe.drop_path) == (3e-4, 5.0, 0.4, 0.2)


@pytest.mark.parametrize("owner", [Recipe, CheckpointSchedule])
def test_the_call_has_the_options_and_defaults_of_its_parts(owner: type) -> None:
    parameters = inspect.signature(retrain).parameters
    for field in fields(owner):
        assert parameters[field.name].default == field.default, field.name


@pytest.mark.parametrize(
    "options",
    [
        {"epochs": 0},
        {"epochs": -3},
        {"epochs": 1.5},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"learning_rate": math.nan},
        {"learning_rate_min": -1.0},
        {"momentum": 1.0},
        {"weight_decay": -1.0},
        {"optimizer": "adam"},
        {"grad_clip": -5.0},
        {"grad_clip": math.inf},
        {"cutout": -1},
        {"auxiliary_weight": -0.4},
        {"drop_path": 1.0},
        {"label_smoothing": 1.0},
        {"precision": "16"},
        {"accumulation": 0},
        {"accumulation": 97},
        {"seed": -1},
        {"on_nonfinite": "ignore"},
        {"optimizer": "adamw", "momentum": 0.5},
    ],
)
def test_a_value_outside_its_range_is_named(options: dict[str, Any]) -> None:
    name, value = list(options.items())[-1]
    with pytest.raises(OptionError, match=rf"{name}.*{value}"):
        Recipe(**options)


@pytest.mark.parametrize("options", [{"checkpoint_minutes": 0.0}, {"checkpoint_steps": 0}])
def test_a_schedule_outside_its_range_is_named(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        CheckpointSchedule(**options)
