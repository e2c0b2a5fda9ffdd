"""A fork of a server ends and speaks as a process that was started by itself does."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from apart import Apart, run_apart
from archgrad.study.forks import CAN_FORK, ForkServer

pytestmark = pytest.mark.skipif(not CAN_FORK, reason="this system does not fork what has loaded torch")


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("print('done')", 0, "done"),
        ("import sys; print('done'); sys.exit(3)", 3, "done"),
        ("raise KeyError('lost')", 1, "KeyError: 'lost'"),
        ("import os; os.kill(os.getpid(), 9)", -9, ""),
    ],
)
def test_its_status_and_words_are_those_of_a_process(code: str, status: int, said: str) -> None:
    done = run_apart(["-c", code])
    assert done.returncode == status
    assert said in done.stdout + done.stderr


def test_a_signal_reaches_it_and_nothing_else() -> None:
    waiting, working = (Apart(["-c", f"import time; time.sleep({seconds})"]) for seconds in (60, 0.5))
    assert os.getpgid(waiting.pid) == waiting.pid
    waiting.send_signal(signal.SIGTERM)
    assert waiting.wait(20) == -signal.SIGTERM
    assert working.wait(20) == 0


def test_data_workers_may_be_started_in_it() -> None:
    code = (
        "import torch; from torch.utils.data import DataLoader, TensorDataset\n"
        "print(sum(x.item() for x, in DataLoader(TensorDataset(torch.arange(4)), num_workers=1)))"
    )
    done = run_apart(["-c", code])
    assert (done.returncode, done.stdout) == (0, "6\n"), done.stderr


def test_a_server_that_ends_early_is_told(tmp_path: Path) -> None:
    server = ForkServer([sys.executable, "-S", "-c", ""], os.environ)
    with open(tmp_path / "log", "wb") as log, pytest.raises(OSError):  # noqa: PT011  # a broken pipe, or no answer
        server.start([], log.fileno())
    server.close()
