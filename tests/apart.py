"""Python processes that tests start, without the seconds of CPU that each would take to import torch and archgrad.

They are forks of one server a test process, so what counts before the first import (a seed of `hash`, an encoding)
is the server's: a test of those starts Python itself.
"""

from __future__ import annotations

import atexit
import functools
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from archgrad.study.forks import CAN_FORK, ForkServer

__all__ = ["Apart", "run_apart"]

_SERVER = Path(__file__).with_name("apart_server.py")


@functools.cache
def _server() -> ForkServer:
    path = os.pathsep.join(part for part in sys.path if part)
    server = ForkServer(
        [sys.executable, str(_SERVER)],
        {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    atexit.register(server.close)
    return server


class Apart:
    """A process that runs `python ARGUMENTS`.

    Args:
        arguments: A script and its arguments; "-m", a module and its arguments; or "-c" and code.
        environment: All variables.
        ignore_warnings: As `python -W ignore`.
        output: A file that gets what it prints, in place of `said`.
        errors: The same for its errors.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str] = os.environ,
        ignore_warnings: bool = False,
        output: str | None = None,
        errors: str | None = None,
    ) -> None:
        self.arguments = list(arguments)
        self._folder = tempfile.TemporaryDirectory(prefix="apart-")
        self._said = [Path(self._folder.name, name) for name in ("output", "errors")]
        for file in self._said:
            file.touch()
        places = [given or str(file) for given, file in zip((output, errors), self._said, strict=True)]
        with open(places[0], "wb") as out, open(places[1], "wb") as error:
            if CAN_FORK:
                request = {
                    "arguments": self.arguments, "environment": dict(environment), "folder": os.getcwd(),
                    "errors": places[1], "ignore_warnings": ignore_warnings,
                }  # fmt: skip
                self._process = _server().start(request, out.fileno())
            else:
                flags = ["-W", "ignore"] if ignore_warnings else []
                self._process = subprocess.Popen(
                    [sys.executable, *flags, *self.arguments], env=environment, stdin=subprocess.DEVNULL,
                    stdout=out, stderr=error,
                )  # fmt: skip
        self._ended: Future[int] = Future()
        threading.Thread(target=self._watch, daemon=True).start()  # which no exit of a failed test waits for

    def _watch(self) -> None:
        try:
            self._ended.set_result(self._process.wait())
        except OSError as error:
            self._ended.set_exception(error)

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""
        return self._ended.result() if self._ended.done() else None

    def wait(self, timeout: float) -> int:
        """Wait for its end; return the exit status, or minus the signal."""
        return self._ended.result(timeout)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            self._process.send_signal(number)

    def said(self) -> tuple[str, str]:
        """What it wrote so far: output and errors."""
        output, errors = (file.read_text(encoding="utf-8", errors="replace") for file in self._said)
        return output, errors

    def end(self, timeout: float) -> subprocess.CompletedProcess[str]:
        """Wait for its end, or kill it when the time is up."""
        try:
            status = self.wait(timeout)
        except BaseException:
            self.send_signal(signal.SIGKILL)
            raise
        return subprocess.CompletedProcess(self.arguments, status, *self.said())


def run_apart(arguments: Sequence[str], *, timeout: float = 300, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `python ARGUMENTS` to its end; the options are those of `Apart`."""
    return Apart(arguments, **options).end(timeout)
