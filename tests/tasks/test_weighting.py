"""Weights of classes, of the draw, and what is refused."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from archgrad.data import InfiniteLoader, TensorSamples
from archgrad.data.dataset import Data
from archgrad.errors import OptionError
from archgrad.retrain.recipe import Recipe
from archgrad.search.search_options import SearchRecipe

TARGETS = torch.tensor([0] * 6 + [1] * 2 + [2] * 4)


def data(targets: torch.Tensor = TARGETS) -> Data:
    return Data.from_datasets(TensorSamples(torch.arange(len(targets)).float()[:, None], targets))


def test_balanced_weights_give_each_class_one_share_of_the_loss() -> None:
    # N / (classes * n): 12 / 18, 12 / 6, 12 / 12
    logits = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    task = Recipe(class_weights="balanced").task_for(data()).task
    mean_of_classes = torch.stack([F.cross_entropy(logits[k == TARGETS], TARGETS[k == TARGETS]) for k in range(3)])
    torch.testing.assert_close(task.loss(logits, TARGETS), mean_of_classes.mean())
    assert SearchRecipe(class_weights="1,2,0").task_for(data()).task.loss.keywords["weight"].tolist() == [1, 2, 0]  # type: ignore[attr-defined]


def test_label_smoothing_and_class_weights_go_together() -> None:
    logits = torch.randn(12, 3, generator=torch.Generator().manual_seed(1))
    task = Recipe(class_weights=[1.0, 2.0, 3.0]).task_for(data()).task
    expected = F.cross_entropy(logits, TARGETS, weight=torch.tensor([1.0, 2.0, 3.0]), label_smoothing=0.1)
    assert float(task.smoothed(0.1)(logits, TARGETS)) == float(expected)


def test_a_label_weighs_as_much_as_its_absence() -> None:
    targets = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    task = Recipe(class_weights="balanced").task_for(data(targets)).task
    zeros = torch.zeros(4, 2)
    # Label 0 is there once and absent 3 times (weight 3), label 1 twice (weight 1): (3 + 3 + 2 + 2) log 2 / 8.
    assert float(task.loss(zeros, targets)) == pytest.approx(10 * 0.6931472 / 8)


def test_balanced_draws_take_each_class_as_often_and_follow_from_the_seed_alone() -> None:
    weights = Recipe(sampling="balanced").sampling_weights(data())

    def drawn(start: int) -> torch.Tensor:
        stream = InfiniteLoader(data().train, batch_size=12, seed=3, sampling_weights=weights)
        batches = stream.batches(start)
        return torch.stack([next(batches)[1] for _ in range(200 - start)])

    whole = drawn(0)
    shares = torch.bincount(whole.flatten()) / whole.numel()
    torch.testing.assert_close(shares, torch.full((3,), 1 / 3), atol=0.03, rtol=0)  # 4 standard deviations of 2,400
    assert torch.equal(drawn(77), whole[77:])


def test_what_has_no_weight_is_not_drawn() -> None:
    weights = torch.tensor([0.0, 1.0] * 6)
    stream = InfiniteLoader(data().train, batch_size=12, seed=0, sampling_weights=weights)
    batches = stream.batches()
    assert all(bool((next(batches)[0] % 2 == 1).all()) for _ in range(20))


@pytest.mark.parametrize(
    ("options", "targets", "message"),
    [
        ({"class_weights": "even"}, TARGETS, "class_weights must be 'balanced' or one number a class, but got 'even'"),
        ({"class_weights": [1.0, 2.0]}, TARGETS, "class_weights must be 3 numbers of at least 0"),
        ({"class_weights": "balanced"}, TARGETS.clamp(max=1) * 2, "none of '1'"),
        ({"class_weights": "balanced"}, torch.randn(8), "class_weights go with classes, but the task is 'regression'"),
        ({"sampling": "even"}, TARGETS, "sampling must be one of balanced"),
        ({"sampling": [1.0]}, TARGETS, "12 finite numbers of at least 0"),
        ({"sampling": "balanced"}, torch.randn(8), "the samples have not one class each"),
        ({"task": "regresion"}, TARGETS, "Did you mean 'regression'?"),
        ({"task": "regression"}, TARGETS, "Give targets.float()"),
        ({"metrics": "accuracy,f"}, TARGETS, "There is no metric 'f' of the task 'classification'"),
        ({"loss": "mae"}, TARGETS, "loss must be one of cross-entropy"),
        ({}, torch.arange(8).reshape(4, 2) % 2, "Say which task it is: classification, multilabel"),
        ({}, torch.arange(8)[:, None], re.escape("Give targets[:, 0]; or say which task it is")),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict[str, Any], targets: torch.Tensor, message: str) -> None:
    def asked() -> None:
        recipe, given = Recipe(**options), data(targets)
        recipe.task_for(given)
        recipe.sampling_weights(given)

    with pytest.raises(OptionError, match=message):
        asked()


@pytest.mark.parametrize(
    ("targets", "task"),
    [
        (TARGETS, "classification"),
        (torch.eye(3), "classification"),
        (torch.tensor([[1.0, 1.0, 0.0]] * 3), "multilabel"),
        (torch.randn(5), "regression"),
        (torch.randn(5, 2), "regression"),
        (torch.arange(24).reshape(2, 3, 4), "segmentation"),
        (torch.arange(8).reshape(4, 2), "sequence"),
    ],
)
def test_targets_tell_their_task(targets: torch.Tensor, task: str) -> None:
    assert Recipe().task_for(data(targets)).task.name == task


def test_pixels_that_do_not_count_are_found_by_their_custom() -> None:
    masks = torch.tensor([[[0, 1], [2, 255]]])
    task = Recipe().task_for(data(masks.repeat(2, 1, 1))).task
    assert (task.labels, task.ignore_index) == (("0", "1", "2"), 255)  # type: ignore[attr-defined]


def test_balanced_draws_are_so_in_each_half_and_in_validation_samples_of_ones_own() -> None:
    targets = torch.tensor([0] * 9 + [1] * 3)
    given = replace(data(targets), valid=TensorSamples(torch.randn(8, 2), torch.tensor([1] * 6 + [0] * 2)))
    train, valid = given.halves(fraction=0.5, seed=0)
    options = SearchRecipe(sampling="balanced")
    for part, expected in ((train, targets), (valid, given.valid.targets)):  # type: ignore[union-attr]
        weights = options.sampling_weights(given, part)
        assert weights is not None
        shares = torch.zeros(2, dtype=torch.float64).index_add(0, expected, weights)
        assert shares[0] == pytest.approx(shares[1])
    # A group that holds most of a class stands on one side: the other half is balanced by its own counts.
    grouped = replace(data(targets), groups=torch.tensor([0] * 8 + [1] + [2] * 3))
    for part in grouped.halves(fraction=0.5, seed=0):
        counts = torch.bincount(targets[part.indices], minlength=2).double()
        weights = options.sampling_weights(grouped, part)
        assert weights is not None
        torch.testing.assert_close(weights, 1 / counts[targets[part.indices]])
    numbers = SearchRecipe(sampling=[float(n) for n in range(12)])
    assert numbers.sampling_weights(given, train).tolist() == list(range(12))  # type: ignore[union-attr]
    assert numbers.sampling_weights(given, valid) is None
