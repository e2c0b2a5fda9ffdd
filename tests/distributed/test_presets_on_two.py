"""Every published method searches on two processes with batches of 4 as on one with batches of 8."""

from __future__ import annotations

from typing import Any

import problems
import pytest
from ranks import Ranks

from archgrad.search.short_forms import PRESETS

OWN_NOISE = [
    name
    for name, method in PRESETS.items()
    if method.skip_noise or any(getattr(stage, "skip_dropout", 0.0) for stage in method.stages)
]
"""Each process draws its own noise in the layers of these, as with any dropout, so that two are not one."""


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return Ranks("worker_presets.py", tmp_path_factory.mktemp("presets")).results()


@pytest.mark.parametrize("name", [name for name in PRESETS if name not in OWN_NOISE])
def test_two_processes_of_batch_4_equal_one_of_batch_8(two: list[dict[str, Any]], name: str) -> None:
    one = problems.searched_preset(name, batch_size=8)
    problems.assert_equal(two[0][name], one)


@pytest.mark.parametrize("name", PRESETS)
def test_both_processes_hold_the_same_bits(two: list[dict[str, Any]], name: str) -> None:
    problems.assert_same_bits(two[0][name], two[1][name])
