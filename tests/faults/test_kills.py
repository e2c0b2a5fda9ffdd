"""Killed at any moment, a run goes on to the result of the run that nobody killed, bit for bit."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from apart import run_apart

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
KILLS = {
    "search": 4,
    "selection": 2,
    "retrain": 2,
    "trainer": 2,
    "method1": 1,
    "method2": 1,
    "method3": 1,
    "recipe1": 2,
}
"""Few of each; `make soak` kills hundreds."""


@pytest.fixture(scope="module")
def tallies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    campaign = Path(__file__).with_name("campaign.py")
    kills = ",".join(f"{name}={number}" for name, number in KILLS.items())
    folder = str(tmp_path_factory.mktemp("kills"))
    result = run_apart([str(campaign), "--json", "--kills", kills, "--folder", folder], timeout=600)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", KILLS)
def test_a_killed_run_goes_on_to_the_same_bits(name: str, tallies: dict[str, Any]) -> None:
    tally = tallies[name]
    assert tally["failures"] == []
    assert tally["kills"] == KILLS[name]
    assert tally["runs"] >= 1


def test_kills_fell_inside_the_write_of_a_file(tallies: dict[str, Any]) -> None:
    assert sum(tally["in_a_write"] for tally in tallies.values()) > 0
