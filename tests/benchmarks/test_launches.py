"""How many operations a pass takes where starting one costs; counted, not timed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from apart import run_apart

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "launches.py"


@pytest.mark.parametrize(("space", "cells", "most"), [("darts-cifar", "2", 0.42), ("nasbench201", "1", 0.5)])
def test_the_fast_path_takes_far_fewer_operations_beside_the_cpu(space, cells, most):
    done = run_apart([str(SCRIPT), "--space", space, "--channels", "4", "--cells", cells, "--batch", "2"])
    assert done.returncode == 0, done.stderr
    plain, fast, ratios = map(json.loads, done.stdout.splitlines())
    for name in ("alpha_pass", "weight_pass"):
        assert 0 < fast[name] < most * plain[name]
        assert ratios[f"ratio_{name}"] == round(fast[name] / plain[name], 3)
