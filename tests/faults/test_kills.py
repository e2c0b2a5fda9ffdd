"""Killed at any moment, a run goes on to the result of the run that nobody killed, bit for bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
KILLS = {
    "search": 20,
    "selection": 4,
    "retrain": 6,
    "trainer": 6,
    "method1": 4,
    "method2": 4,
    "method3": 4,
    "recipe1": 3,
}


@pytest.fixture(scope="module")
def tallies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    campaign = Path(__file__).with_name("campaign.py")
    kills = ",".join(f"{name}={number}" for name, number in KILLS.items())
    result = subprocess.run(
        [sys.executable, str(campaign), "--json", "--kills", kills, "--folder", str(tmp_path_factory.mktemp("kills"))],
        capture_output=True,
        text=True,
        # torch cannot fork once it has used a GPU, and threads gain nothing here.
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
    )
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
