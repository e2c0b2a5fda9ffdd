"""The recipe is the paper's, in numbers, and its options are checked."""

from __future__ import annotations

import inspect
import math
from dataclasses import fields
from typing import Any

import pytest

from archgrad.errors import OptionError
from archgrad.retrain import RECIPES, Recipe, retrain
from archgrad.runs import CheckpointSchedule


def test_the_learning_rate_of_an_epoch_is_the_authors_cosine() -> None:
    recipe = Recipe()
    assert recipe.learning_rate_in(0) == 0.025
    assert recipe.learning_rate_in(300) == pytest.approx(0.0125, rel=1e-12)
    # 0.025 (1 + cos(pi 599/600)) / 2 = 0.025 (pi/600)^2 / 4, up to the next power
    assert recipe.learning_rate_in(599) == pytest.approx(0.025 * (math.pi / 600) ** 2 / 4, rel=1e-5)
    # The search's schedule, last of 50 epochs, as seen in the authors' logs.
    assert Recipe(epochs=50, learning_rate_min=1e-3).learning_rate_in(49) == pytest.approx(1.0237e-3, rel=1e-4)


def test_courses_of_the_learning_rate_in_numbers() -> None:
    linear = Recipe(epochs=250, schedule="linear", learning_rate=0.5)
    assert [linear.learning_rate_in(epoch) for epoch in (0, 125, 249)] == pytest.approx([0.5, 0.25, 0.002], rel=1e-12)
    falling = Recipe(epochs=250, schedule="exponential", learning_rate=0.1)
    assert [falling.learning_rate_in(epoch) for epoch in (0, 1, 2)] == pytest.approx([0.1, 0.097, 0.09409], rel=1e-12)
    assert falling.learning_rate_in(249) == pytest.approx(5.0835e-5, rel=1e-4)
    bounded = Recipe(epochs=9, schedule="exponential", learning_rate_decay=0.5, learning_rate_min=0.01)
    assert [bounded.learning_rate_in(epoch) for epoch in (1, 2, 8)] == [0.0125, 0.01, 0.01]
    assert Recipe(schedule="constant").learning_rate_in(500) == 0.025


@pytest.mark.parametrize("schedule", ["cosine", "linear", "exponential", "constant"])
def test_a_warm_up_multiplies_the_first_epochs_of_any_course_by_growing_shares(schedule: Any) -> None:
    plain, warmed = (Recipe(epochs=10, schedule=schedule, warmup_epochs=number) for number in (0, 4))
    shares = [warmed.learning_rate_in(epoch) / plain.learning_rate_in(epoch) for epoch in range(10)]
    assert shares == pytest.approx([0.25, 0.5, 0.75] + [1.0] * 7, rel=1e-12)


def test_the_recipes_of_the_field_are_options_of_a_retraining() -> None:
    of_darts, of_pdarts = (Recipe(**RECIPES[name]) for name in ("imagenet", "imagenet-1024"))
    for recipe in (of_darts, of_pdarts):
        assert (recipe.epochs, recipe.weight_decay, recipe.label_smoothing) == (250, 3e-5, 0.1)
        assert (recipe.momentum, recipe.grad_clip, recipe.auxiliary_weight) == (0.9, 5.0, 0.4)
        assert (recipe.drop_path, recipe.cutout) == (0.0, 0)
    assert (of_darts.batch_size, of_darts.learning_rate_in(0)) == (128, 0.1)
    assert of_darts.learning_rate_in(10) == pytest.approx(0.1 * 0.97**10, rel=1e-12)
    assert (of_pdarts.batch_size, of_pdarts.learning_rate) == (1024, 0.5)
    # 0.5 (1 - e / 250), times (e + 1) / 5 in the first five epochs
    rates = [of_pdarts.learning_rate_in(epoch) for epoch in (0, 3, 4, 5, 249)]
    assert rates == pytest.approx([0.1, 0.5 * 247 / 250 * 4 / 5, 0.492, 0.49, 0.002], rel=1e-12)


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
        {"schedule": "step"},
        {"schedule": "exponential", "learning_rate_decay": 1.0},
        {"schedule": "exponential", "learning_rate_decay": 0.0},
        {"schedule": "linear", "learning_rate_decay": 0.9},
        {"warmup_epochs": -1},
        {"warmup_epochs": 0.5},
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
