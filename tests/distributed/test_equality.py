"""Two processes with batches of 8 compute what one does with batches of 16."""

from __future__ import annotations

from typing import Any

import problems
import pytest
import torch
from ranks import Ranks

CASES = [f"{step}-{norm}" for step in problems.STEPS for norm in ("plain", "norm")] + [
    "cells",
    "selected",
    "weighted-norm",
    "weighted-plain",
    "rules",
    "retrain",
    "retrain of a sum",
]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return Ranks("worker_equality.py", tmp_path_factory.mktemp("equality")).results()


def alone(case: str) -> dict[str, Any]:
    if case == "retrain":
        return problems.retrained(batch_size=16)
    if case == "retrain of a sum":
        return problems.summed(batch_size=16)
    if case == "rules":
        return problems.ruled(batch_size=16)
    if case == "selected":
        return problems.selected(batch_size=16)
    if case.startswith("weighted"):
        return problems.weighted(batch_size=16, norm=case.endswith("norm"))
    if case == "cells":
        return problems.searched("first", norm=True, batch_size=16, cells=True)
    step, norm = case.split("-")
    return problems.searched(step, norm=norm == "norm", batch_size=16)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_of_batch_8_equal_one_of_batch_16(two: list[dict[str, Any]], case: str) -> None:
    one = alone(case)
    problems.assert_equal(two[0][case], one)


@pytest.mark.parametrize("case", CASES)
def test_both_processes_hold_the_same_bits(two: list[dict[str, Any]], case: str) -> None:
    problems.assert_same_bits(two[0][case], two[1][case])


def test_rules_do_something_in_that_comparison(two: list[dict[str, Any]]) -> None:
    history = two[0]["rules"]["history"]
    assert any(0.0 < row["flooded"] < 1.0 for row in history)
    assert 0.0 < history[-1]["frozen_operations"] <= 1.0
    assert history[0]["frozen_operations"] < 1.0


@pytest.mark.parametrize("loss", problems.LOSSES)
@pytest.mark.parametrize("step", problems.STEPS)
@pytest.mark.parametrize("parts", [1, 2])
def test_a_loss_that_is_no_mean_over_samples_is_that_of_the_whole_batch(
    two: list[dict[str, Any]], loss: str, step: str, parts: int
) -> None:
    # With "ignored" all targets of process 1 are, so that its own loss is 0 / 0.
    one = problems.stepped(loss, step, samples=slice(0, 8), accumulation=1)
    for each in two:
        found = each[f"{loss}-{step}-{parts}"]
        assert found["losses"] == pytest.approx(one["losses"], abs=1e-10)
        for name, value in one["state"].items():
            assert value.isfinite().all()
            torch.testing.assert_close(found["state"][name], value, rtol=1e-8, atol=1e-8, msg=name)
