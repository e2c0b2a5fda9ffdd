"""The benchmark of a search step runs, whatever is switched off; what it measures is not asserted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from apart import run_apart

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "search_step.py"
TINY = ("--channels", "2", "--cells", "3", "--batch", "2", "--image-size", "8", "--rounds", "1", "--threads", "1")
RATIOS = {"ratio_step", "ratio_alpha_pass", "ratio_weight_pass", "ratio_memory"}


def run(*typed: str) -> list[dict]:
    done = run_apart([str(SCRIPT), *TINY, *typed])
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("step", "ideas"),
    [
        ("first-order", ("whole", "halves", "heap", "shared")),
        ("unrolled", ("kernels", "channels-last", "depthwise", "products", "sums")),
    ],
    ids=lambda part: part if isinstance(part, str) else "+".join(part) or "all",
)
def test_one_line_a_path_and_one_with_the_ratios(step, ideas):
    plain, fast, ratios = run("--step", step, *(text for idea in ideas for text in ("--without", idea)))
    assert (plain["path"], fast["path"]) == ("plain", "fast")
    assert fast["without"] == list(ideas)
    for path in (plain, fast):
        assert path["step"] == step
        assert {"alpha_pass_seconds", "weight_pass_seconds", "images_per_second", "peak_memory_mb"} <= set(path)
        assert path["times_floor"] == round(path["step_seconds"] / path["floor_seconds"], 1)
    assert set(ratios) >= RATIOS | {"device", "torch", "python"}


def test_paths_that_are_named_are_compared_with_the_plain_one():
    plain, torch, grouped, *ratios = run("--fast", "torch", "grouped")
    assert [each["path"] for each in (plain, torch, grouped)] == ["plain", "torch", "grouped"]
    for name, found in zip(("torch", "grouped"), ratios, strict=True):
        assert set(found) >= {f"{name}_{ratio}" for ratio in RATIOS}


@pytest.mark.parametrize("typed", [("--precision", "tf32"), ("--without", "graphs"), ("--without", "gathered")])
def test_what_is_for_cuda_is_refused_on_the_cpu(typed):
    done = run_apart([str(SCRIPT), *TINY, *typed])
    assert done.returncode == 2
    assert "cuda" in done.stderr or "without effect on cpu" in done.stderr
