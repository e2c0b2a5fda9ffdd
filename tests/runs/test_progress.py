"""Progress is a live table, plain lines or nothing, and costs next to nothing per step."""

from __future__ import annotations

import io
import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from apart import run_apart
from archgrad.errors import OptionError
from archgrad.runs import Progress, progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


FIGURES = ("train_loss", "train_accuracy", "valid_accuracy", "alphas_entropy", "skip_connections")


def make(file: io.StringIO | None, **options: Any) -> Progress:
    return Progress("search", FIGURES, epochs=2, steps=4, device=torch.device("cpu"), file=file, **options)


def run(shown: Progress) -> int:
    reads = 0

    def read() -> dict[str, float]:
        nonlocal reads
        reads += 1
        return {"train_loss": 0.5, "train_accuracy": 0.25}

    with shown:
        for epoch in range(2):
            shown.start_epoch(epoch)
            for step in range(4):
                shown.step(step, samples=8, read=read)
            shown.end_epoch(
                {
                    "train_loss": 0.4,
                    "train_accuracy": 0.5,
                    "valid_accuracy": None,
                    "skip_connections": 3,
                    "epoch": epoch,
                }
            )
        shown.message("done [bold]")
    return reads


def test_plain_lines_come_every_log_frequency_steps_and_every_epoch() -> None:
    file = io.StringIO()
    assert run(make(file, log_frequency=2)) == 2
    lines = file.getvalue().splitlines()
    assert len(lines) == 5
    assert lines[0].startswith("search epoch 1/2 | step 2/4 | ")
    assert " samples/s | 0:00:0" in lines[0]
    assert lines[0].endswith(" MB | train loss 0.5000 | train acc 25.00 %")
    assert lines[1].endswith("train loss 0.4000 | train acc 50.00 % | valid acc - | skips 3")
    assert lines[3].startswith("search epoch 2/2 | step 4/4 | ")
    assert "| 0:00:00 left |" in lines[3]
    assert lines[4] == "done [bold]"


def test_without_log_frequency_a_line_comes_every_epoch() -> None:
    file = io.StringIO()
    assert run(make(file)) == 0
    assert len(file.getvalue().splitlines()) == 3


def test_a_terminal_gets_a_live_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_REFRESH_SECONDS", 0.0)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    file = Terminal()
    assert run(make(file, log_frequency=2)) == 8
    shown = file.getvalue()
    for text in ("epoch 2/2", "samples/s", "left", "MB", "train loss", "α entropy", "skips", "25.00 %", "done [bold]"):
        assert text in shown
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).splitlines()
    assert any(line.strip() == "━" * 40 for line in plain)  # the bar has a line to itself


@pytest.mark.parametrize("file", [io.StringIO(), Terminal()])
def test_a_users_own_metrics_are_shown_after_the_others(file: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    with make(file) as shown:
        shown.start_epoch(0)
        shown.end_epoch({"valid_top[/5]": 0.75, "train_loss": 0.5, "epoch": 0, "seconds": 3.0})
    written = file.getvalue()
    assert written.index("train loss") < written.index("valid top[/5]")
    assert "0.7500" in written
    assert "seconds" not in written


def test_the_unit_is_that_of_the_data() -> None:
    file = io.StringIO()
    run(make(file, unit="images"))
    assert " images/s " in file.getvalue()
    assert "samples/s" not in file.getvalue()


def test_a_resumed_run_tells_no_speed_of_steps_that_it_did_not_take() -> None:
    file = io.StringIO()
    with make(file) as shown:
        shown.start_epoch(0)  # whose steps were all done before
        shown.end_epoch({"train_loss": 0.5})
        shown.start_epoch(1)
        shown.step(0, samples=8, read=dict)
        shown.end_epoch({"train_loss": 0.5})
    first, second = file.getvalue().splitlines()
    assert "/s" not in first
    assert "left" not in first
    assert " samples/s | 0:00:0" in second


def test_a_slow_speed_is_not_rounded_to_none(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    file = io.StringIO()
    with make(file) as shown:
        shown.start_epoch(0)
        now = 32.0
        shown.step(3, samples=8, read=dict)
        shown.end_epoch({})
    assert "| 0.25 samples/s | 0:02:08 left" in file.getvalue()


NOTEBOOK = """
import sys
from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.interactiveshell import InteractiveShell

class ZMQInteractiveShell(InteractiveShell):  # that of a notebook, by its name
    pass

shell = ZMQInteractiveShell.instance()
shell.display_pub = CapturingDisplayPublisher(parent=shell)
sys.path.insert(0, {folder!r})
shell.run_cell("from test_progress import *; progress._REFRESH_SECONDS = 0.0")
shell.run_cell("reads = run(make(None))")
shell.run_cell("quiet = run(make(None, quiet=True))")
shell.run_cell("lines = io.StringIO(); told = run(make(lines))")
print(shell.user_ns["reads"], shell.user_ns["quiet"], len(shell.user_ns["lines"].getvalue().splitlines()))
shown = shell.display_pub.outputs
print(len(shown), [each["update"] for each in shown].count(False))
print({{each["transient"]["display_id"] for each in shown}}.__len__())
print(shown[-1]["data"]["text/html"])
print(shown[-1]["data"]["text/plain"])
"""


def test_a_notebook_gets_a_live_table_in_one_place() -> None:
    pytest.importorskip("IPython")
    code = NOTEBOOK.format(folder=str(Path(__file__).parent))
    done = run_apart(["-c", code])
    assert done.returncode == 0, done.stderr
    reads, displays, places, *last = done.stdout.splitlines()
    assert reads.split() == ["8", "0", "3"]  # live, quiet, and a file, which gets lines also from a notebook
    assert displays.split() == ["10", "1"]  # eight steps and two epochs: shown once, then renewed
    assert places == "1"
    for text in ("search epoch 2/2", "samples/s", "left", "train loss", "50.00 %", "━" * 40, "<pre"):
        assert any(text in line for line in last), text
    assert "epoch 1/2" not in done.stderr  # no line an epoch besides
    assert "done [bold]" in done.stderr


def test_quiet_writes_and_reads_nothing() -> None:
    for file in (io.StringIO(), Terminal()):
        assert run(make(file, log_frequency=1, quiet=True)) == 0
        assert file.getvalue() == ""


@pytest.mark.parametrize("file", [io.StringIO(), Terminal()])
def test_a_step_costs_under_a_tenth_of_a_millisecond(file: io.StringIO) -> None:
    shown = Progress(
        "search", FIGURES, epochs=1, steps=20_000, device=torch.device("cpu"), file=file, log_frequency=20_000
    )
    with shown:
        shown.start_epoch(0)
        started = time.process_time()
        for step in range(20_000):
            shown.step(step, samples=8, read=lambda: {"train_loss": 0.5})
        assert (time.process_time() - started) / 20_000 < 1e-4


def test_log_frequency_below_one_is_an_error() -> None:
    with pytest.raises(OptionError, match="at least 1, but got log_frequency=0"):
        make(io.StringIO(), log_frequency=0)
