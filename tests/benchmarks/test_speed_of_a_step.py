"""The benchmark of a search step runs, whatever is switched off; what it measures is not asserted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "search_step.py"
TINY = ("--channels", "2", "--cells", "3", "--batch", "2", "--image-size", "8", "--rounds", "1", "--threads", "1")
RATIOS = {"ratio_step", "ratio_alpha_pass", "ratio_weight_pass", "ratio_memory"}


def run(*typed: str) -> list[dict]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, SCRIPT, *TINY, *typed], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("step", ["first-order", "unrolled", "exact"])
def test_one_line_a_path_and_one_with_the_ratios(step):
    plain, fast, ratios = run("--step", step)
    assert (plain["path"], fast["path"]) == ("plain", "fast")
    for path in (plain, fast):
        assert path["step"] == step
        assert {"alpha_pass_seconds", "weight_pass_seconds", "images_per_second", "peak_memory_mb"} <= set(path)
    assert set(ratios) >= RATIOS | {"device", "torch", "python"}


@pytest.mark.parametrize(
    "ideas",
    [
        ("whole", "halves", "heap", "shared"),
        ("kernels", "channels-last", "depthwise"),
        ("kernels", "products", "sums"),
    ],
    ids="+".join,
)
def test_ideas_can_be_switched_off(ideas):
    typed = [text for idea in ideas for text in ("--without", idea)]
    _, fast, _ = run(*typed)
    assert fast["without"] == list(ideas)


@pytest.mark.parametrize("typed", [("--bf16",), ("--without", "graphs"), ("--without", "gathered")])
def test_what_is_for_cuda_is_refused_on_the_cpu(typed):
    done = subprocess.run([sys.executable, SCRIPT, *TINY, *typed], capture_output=True, text=True)
    assert done.returncode == 2
    assert "cuda" in done.stderr or "without effect on cpu" in done.stderr
