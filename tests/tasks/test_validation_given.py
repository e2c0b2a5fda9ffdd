"""Validation samples of a caller's own, for every task: searched with, then retrained on together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import archgrad as ag
from archgrad.data import Data, TensorSamples

from .task_problems import PROBLEMS, Problem

QUICK: dict[str, Any] = {"epochs": 1, "batch_size": 8, "quiet": True, "device": "cpu"}


def with_valid(problem: Problem, *, samples: int = 16) -> Data:
    data = problem.data()
    train = data.train
    assert isinstance(train, TensorSamples)
    valid, rest = (
        TensorSamples(train.inputs[part], train.targets[part]) for part in (slice(samples), slice(samples, 48))
    )
    return Data.from_datasets(rest, data.test, valid=valid)


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_alphas_learn_from_it_and_a_retraining_from_both(name: str) -> None:
    problem = PROBLEMS[name]
    data = with_valid(problem)
    torch.manual_seed(0)
    found = ag.search(problem.space(), data, task=problem.task, **QUICK, **problem.options)
    trained = ag.retrain(
        ag.derive(problem.space(), found), data, task=problem.task, cutout=0, **QUICK, **problem.options
    )
    assert found.history[-1]["valid_loss"] is not None
    assert trained.task is not None
    assert set(trained.test_metrics) == set(trained.task.metrics)
    assert len(data.whole().train_targets) == len(data.train_targets) + 16


def test_a_class_that_only_the_validation_samples_have_is_counted_in_the_search() -> None:
    data = with_valid(PROBLEMS["segmentation"])
    train = data.train
    assert isinstance(train, TensorSamples)
    rare = replace(data, train=TensorSamples(train.inputs, train.targets.clamp(max=1)))
    assert int(rare.train_targets.max()) == 1
    seen = []

    def space(num_classes: int) -> torch.nn.Module:
        seen.append(num_classes)
        return PROBLEMS["segmentation"].space()

    found = ag.search(space, rare, task="segmentation", **QUICK)
    assert seen == [3]
    assert found.history[-1]["valid_iou"] >= 0
