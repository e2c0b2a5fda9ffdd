"""The first signal lets the step finish; the second does not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from archgrad.runs import Interrupted, StopRequest

LOOP = """
import os, sys, time
from archgrad.runs.signals import Interrupted, StopRequest
with StopRequest() as request:
    print("ready", flush=True)
    while True:
        for _ in range(int(sys.argv[1])):  # a step
            time.sleep(0.05)
        if request.requested:
            print("saved", flush=True)
            raise Interrupted(request.signal_number)
"""


def loop(step_length: int) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", LOOP, str(step_length)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_ends_with_128_plus_its_number(number: signal.Signals) -> None:
    process = loop(2)
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)
    assert output == "saved\n"
    assert process.returncode == 128 + number


def test_a_second_signal_ends_at_once() -> None:
    process = loop(10_000)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.4)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert output == ""
    assert process.returncode == 128 + signal.SIGINT


def test_the_same_signal_sent_twice_by_a_launcher_is_one_request() -> None:
    with StopRequest() as request:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.requested
        assert request.signal_number == signal.SIGTERM


def test_old_handlers_come_back() -> None:
    def mine(*_: object) -> None: ...

    before = signal.signal(signal.SIGTERM, mine)
    try:
        with StopRequest() as request:
            assert signal.getsignal(signal.SIGTERM) is not mine
            assert not request.requested
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


def test_outside_the_main_thread_nothing_is_changed() -> None:
    seen = []

    def work() -> None:
        with StopRequest() as request:
            seen.append((signal.getsignal(signal.SIGTERM), request.requested))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(signal.getsignal(signal.SIGTERM), False)]


def test_a_script_that_does_not_catch_it_ends_with_the_status() -> None:
    error = Interrupted(signal.SIGTERM)
    assert isinstance(error, SystemExit)
    assert error.code == 143
    assert str(error) == "interrupted by SIGTERM"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_can_be_terminated_alone() -> None:
    with StopRequest() as request:
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        time.sleep(0.1)
        os.kill(child, signal.SIGTERM)
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == signal.SIGTERM
        assert not request.requested
