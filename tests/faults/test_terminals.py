"""A terminal that is lost ends no run, and none is steered by names that come from files."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import signal
import subprocess
import sys
import tty
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import pytest
import torch

import archgrad as ag
from apart import run_apart
from archgrad.cli import main
from archgrad.runs import Interrupted, Progress
from archgrad.terminal import Output, escaped, printable, say

from .runs import loss_that, outcome, search

STEERING = "\x1b]0;owned\x07\x1b[2J\r\x9b31m\u202etxt"
"""Sets the title, clears the screen, goes back to the line's start, reddens, and turns the text's direction."""


def full() -> TextIO:
    return open("/dev/full", "w", buffering=1)


def closed() -> TextIO:
    stream = io.StringIO()
    stream.close()
    return stream


def broken_pipe() -> TextIO:
    reading, writing = os.pipe()
    os.close(reading)
    return open(writing, "w", buffering=1)


def hung_up() -> TextIO:
    master, slave = pty.openpty()
    tty.setraw(slave)
    stream = os.fdopen(slave, "w", buffering=1)
    os.close(master)
    return stream


def none() -> None: ...


def ascii_only() -> TextIO:
    return io.TextIOWrapper(io.BytesIO(), encoding="ascii", line_buffering=True)


def let_go(stream: TextIO | None) -> None:
    with contextlib.suppress(OSError):  # what was held back is lost
        if stream is not None:
            stream.close()


STREAMS = [full, closed, broken_pipe, hung_up, none, ascii_only]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no full device")
@pytest.mark.parametrize("open_stream", STREAMS)
def test_a_run_whose_terminal_is_lost_goes_on_and_is_saved(
    open_stream: Callable[[], TextIO | None],
    tmp_path: Path,
    uninterrupted: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stream = open_stream()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        search(tmp_path / "run", quiet=False, log_frequency=1)
    let_go(stream)
    assert outcome(tmp_path / "run") == uninterrupted
    told = capsys.readouterr().out
    if open_stream in (none, ascii_only):
        assert told == ""
    else:  # once
        assert told.startswith("Warning: Standard error cannot be written any more (")
        assert told.count("\n") == 1


def test_a_live_table_goes_on_when_its_terminal_hangs_up_within_the_run(
    tmp_path: Path, uninterrupted: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    master, slave = pty.openpty()
    stream = os.fdopen(slave, "w", buffering=1)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("archgrad.runs.progress._REFRESH_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        patch.setattr(sys, "stdout", None)
        search(tmp_path / "run", quiet=False, loss=loss_that(lambda: os.close(master), step=2))
    let_go(stream)
    assert outcome(tmp_path / "run") == uninterrupted


@pytest.fixture
def hang_up() -> Iterator[Callable[[signal.Handlers], None]]:
    """Set what a hang-up does, whatever the tests were started under."""
    before = signal.getsignal(signal.SIGHUP)
    yield lambda handler: signal.signal(signal.SIGHUP, handler)
    signal.signal(signal.SIGHUP, before)


def test_a_hang_up_finishes_the_step_saves_and_ends(
    tmp_path: Path, uninterrupted: dict[str, bytes], hang_up: Callable[[signal.Handlers], None]
) -> None:
    hang_up(signal.SIG_DFL)
    with pytest.raises(Interrupted) as caught:
        search(tmp_path / "run", loss=loss_that(lambda: os.kill(os.getpid(), signal.SIGHUP), step=4))
    assert caught.value.code == 128 + signal.SIGHUP
    search(tmp_path / "run", resume=True)
    assert outcome(tmp_path / "run") == uninterrupted


def test_a_run_under_nohup_outlives_a_hang_up(
    tmp_path: Path, uninterrupted: dict[str, bytes], hang_up: Callable[[signal.Handlers], None]
) -> None:
    hang_up(signal.SIG_IGN)
    search(tmp_path / "run", loss=loss_that(lambda: os.kill(os.getpid(), signal.SIGHUP), step=4))
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    assert outcome(tmp_path / "run") == uninterrupted


# --- the command line -------------------------------------------------------------------------------------------------

QUICK = "search --space tiny --channels 2 --train-samples 64 --batch-size 16 --epochs 1 --out run"


def typed(command: str, redirection: str, folder: Path) -> subprocess.CompletedProcess[str]:
    line = f"'{sys.executable}' -m archgrad {command} {redirection}"
    return subprocess.run(["sh", "-c", line], cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("redirection", "told"),
    [
        (">/dev/full 2>/dev/full", ""),
        (">/dev/full", "Standard output cannot be written any more (No space left on device). The work goes on"),
        (">&- 2>&-", ""),
    ],
)
def test_a_command_that_writes_files_does_its_work_without_a_terminal(
    redirection: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "&-" in redirection:
        done = typed(QUICK, redirection, tmp_path)
    else:
        monkeypatch.chdir(tmp_path)
        full = {"output": "/dev/full", "errors": "/dev/full" if "2>" in redirection else None}
        done = run_apart(["-m", "archgrad", *QUICK.split()], **full)
    assert done.returncode == 0, done.stderr
    assert told in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert ag.Architecture.load(tmp_path / "run" / "checkpoints" / "epoch_0.json")
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()


@pytest.mark.parametrize(("redirection", "reason"), [(">/dev/full", "No space left"), (">&-", "it is closed")])
def test_a_command_that_only_prints_says_that_it_could_not(redirection: str, reason: str, tmp_path: Path) -> None:
    done = typed("show DARTS_V2", redirection, tmp_path)
    assert done.returncode == 2
    assert "Error: The result cannot be written to standard output" in done.stderr
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


# --- text that steers -------------------------------------------------------------------------------------------------


def clean(text: str) -> bool:
    return all(character.isprintable() or character in "\n\t" for character in text)


def test_what_is_not_printable_is_shown_as_an_escape() -> None:
    assert printable("α ─ \n\x1b[0m\u202e\x9b") == "α ─ \\n\\x1b[0m\\u202e\\x9b"
    assert escaped("α\tb\n\x1b[0m\r\u2028") == "α\tb\n\\x1b[0m\\r\\u2028"
    assert clean(escaped(STEERING))


def test_characters_that_a_terminal_lacks_are_shown_as_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = ascii_only()
    monkeypatch.setattr(sys, "stdout", stream)
    say("α = 1")
    assert stream.buffer.getvalue() == b"\\u03b1 = 1\n"  # type: ignore[attr-defined]
    assert Output(stream).encoding == "ascii"


def test_progress_shows_names_of_anyone_s_making_without_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    for terminal in (False, True):
        stream = io.StringIO()
        monkeypatch.setattr(stream, "isatty", lambda terminal=terminal: terminal, raising=False)
        with Progress("search", ("train_loss",), epochs=1, steps=1, device=torch.device("cpu"), file=stream) as shown:
            shown.start_epoch(0)
            shown.step(0, samples=1, read=dict)
            shown.end_epoch({"train_loss": 1.0, f"train_{STEERING}": 2.0})
            shown.message(f"It was {STEERING}.")
        for part in (STEERING[:11], "\x1b[2J", "\x9b", "\u202e"):
            assert part not in stream.getvalue()
        assert "owned" in stream.getvalue()


def test_no_error_warning_or_table_of_the_command_line_steers_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / f"run{STEERING}".replace("/", "")
    run.mkdir()
    (run / "config.yaml").write_text(f'command: "{STEERING.encode("unicode_escape").decode()}"\n')
    (tmp_path / "bad.yaml").write_text(f'command: search\n"{"x" + chr(92) + "x1b[2J"}": 1\n')
    architecture = ag.Architecture({STEERING: STEERING}, space=STEERING)
    architecture.save(tmp_path / "a.json")
    (tmp_path / "broken.json").write_text(STEERING)
    commands: list[list[Any]] = [
        ["search", "--resume", run],
        ["search", "--config", "bad.yaml"],
        ["search", "--space", STEERING],
        ["search", f"--{STEERING}"],
        ["retrain", "--arch", STEERING],
        ["retrain", "--arch", "broken.json"],
        ["report", STEERING],
        ["report", run],
        ["export", run, "--onnx", "x.onnx"],
        ["predict", run, "x.png"],
        ["show", "a.json"],
        ["show", "a.json", "--dot"],
        ["show", "broken.json"],
        [STEERING],
    ]
    for command in commands:
        with contextlib.suppress(SystemExit):
            main([str(part) for part in command])
        printed = capsys.readouterr()
        assert printed.out + printed.err, command
        assert clean(printed.out + printed.err), (command, printed)


def test_warnings_of_a_command_are_escaped(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def warn(name: str, arguments: list[str]) -> int:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn(STEERING, UserWarning, stacklevel=1)
        return 0

    monkeypatch.setattr("archgrad.cli.lists.run_list", warn)
    assert main(["steps"]) == 0
    told = capsys.readouterr().err
    assert told.startswith("Warning: ")
    assert clean(told)
