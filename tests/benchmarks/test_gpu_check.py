"""The check of a GPU, as far as it can be run without one."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    import gpu_check

    return gpu_check


def test_all_that_is_asked_is_among_the_parts_and_fits_in_the_time(check: ModuleType, tmp_path: Path) -> None:
    parts = check.parts_of("cuda", "digits", tmp_path)
    names = [part.name for part in parts]
    assert names[0] == "tests"
    assert {f"search {order} {p}" for order in ("first-order", "unrolled") for p in ("32", "tf32", "bf16")} < {*names}
    assert {f"retraining {p}" for p in ("32", "tf32", "bf16")} < {*names}
    assert parts[-1].reads == "run"


def test_commands_are_what_the_benchmarks_take(
    check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import search_step

    for part in check.parts_of("cpu", "digits", tmp_path, ("--channels", "2", "--cells", "3")):
        if part.name.startswith("search ") and part.reads == "json":
            monkeypatch.setattr(sys, "argv", list(part.command))
            options = search_step.parse()
            assert f"search {options.step} {options.precision}" == part.name
            assert (options.channels, options.cells) == (2, 3)
            assert options.fast == ["torch", "grouped", "auto"]


def test_parts_that_fail_or_take_too_long_are_told_and_stop_no_other(check: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with open(tmp_path / "run" / "timings.csv", "w", encoding="utf-8", newline="") as text:
        csv.writer(text).writerows([["epoch", "images_per_second", "peak_memory_mb"], [0, 9, 1], [1, 70, 2048]])
    paths = {"stage 1": {"path": "grouped", "seconds": {"plain": 0.2, "grouped": 0.1}, "left_out": {"torch": "fails"}}}
    (tmp_path / "run" / "paths.json").write_text(json.dumps({"networks": paths}))
    lines = [{"path": "plain", "step_seconds": 2.0}, {"path": "fast", "step_seconds": 0.5}, {"ratio_step": 4.0}]
    output = "\n".join(map(json.dumps, lines))
    parts = [
        check.Part("good", ("-c", f"print({output!r})"), 60),
        check.Part("bad", ("-c", "import sys; sys.exit('no such device')"), 60),
        check.Part("slow", ("-c", "import time; time.sleep(60)"), 0.5),
        check.Part("tests", ("-c", "print('3 passed')"), 60, "tests"),
        check.Part("search", ("-c", "", "--out", str(tmp_path / "run")), 60, "run"),
        check.Part("garbled", ("-c", "print('{')"), 60),
    ]
    found = list(check.checked(parts, minutes=5))
    assert [each.status for each in found] == ["done", "failed", "failed", "done", "done", "failed"]
    table = check.to_markdown(found, {"device": "none"})
    assert "| good | 2 |  |  |  | 0.5 | 4 |" in table
    assert "| search |  |  |  |  |  |  |  | 2.00 |" in table
    assert f"Path of stage 1: {json.dumps(paths['stage 1'])}" in table
    for told in ("no such device", "took more than", "Tests: 3 passed", "70 images a second"):
        assert told in table
    assert [each.status for each in check.checked(parts[:2], minutes=0)] == ["no time left"] * 2
