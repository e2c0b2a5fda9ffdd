"""The benchmark of the presets' steps finds each of them; what it measures is not asserted, but what it counts is."""

from __future__ import annotations

from pathlib import Path

import pytest

from apart import run_apart
from archgrad.methods import presets

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "methods.py"


def test_lines_tell_stages_apart_and_count_passes():
    # One pass of alphas and one of weights; for finite differences one that looks ahead and two more.
    passes = {"darts-second-order": 5, "drnas-progressive, stage 1": 2, "drnas-progressive, stage 2": 2}
    names = ("darts_second_order", "drnas_progressive")
    done = run_apart([str(SCRIPT), "--quick", "--threads", "1", *(text for name in names for text in ("--only", name))])
    assert done.returncode == 0, done.stderr
    lines = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")][2:]
    assert {name: int(count) for name, count, *_ in lines} == passes


def test_every_preset_is_measured(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    from methods import rows

    assert {name.split(",")[0] for name, *_ in rows(None)} == {name.replace("_", "-") for name in presets.__all__}
