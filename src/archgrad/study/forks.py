"""Processes that begin at once: a server has imported what each of them needs, and forks.

A run imports for seconds before its first step, as torch and what it loads with its first optimizer are large. Here
that happens once. The server computes nothing and so has no threads and no CUDA, which a fork would break.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

__all__ = ["CAN_FORK", "Fork", "ForkServer", "serve"]

CAN_FORK = sys.platform == "linux"
"""Whether this system forks processes that have loaded torch; elsewhere system libraries forbid it or there is none."""

_LARGEST = 1 << 17
"""Bytes of a request."""


class Fork:
    """One process that a server has forked.

    Attributes:
        pid: Its process id; it leads a session of its own.
    """

    def __init__(self, answers: socket.socket) -> None:
        self._answers = answers.makefile("r", encoding="ascii")
        answers.close()
        self.pid = self._number()

    def _number(self) -> int:
        line = self._answers.readline()
        if not line:
            raise ChildProcessError("The server of processes has ended before the process that it was asked for.")
        return int(line)

    def wait(self) -> int:
        """Wait for the end of the process; return its exit status, or minus the signal that ended it."""
        with self._answers:
            return self._number()

    def send_signal(self, number: int) -> None:
        """Send a signal to the process, if it is there."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)


class ForkServer:
    """A server and the way to it; to be closed, which lets the processes that run go on.

    Args:
        command: Starts Python, where `serve` is called once everything is imported.
        environment: Of the server, and so of all its processes.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._server = subprocess.Popen(
                command, stdin=theirs.fileno(), env=dict(environment), start_new_session=True
            )

    def start(self, request: Any, output: int) -> Fork:
        """Fork a process.

        Args:
            request: For the function that the server was given; plain data.
            output: A file descriptor that becomes the process's output and errors.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._requests, [json.dumps(request).encode("ascii")], [theirs.fileno(), output])
        return Fork(ours)

    def close(self) -> None:
        """End the server."""
        self._requests.close()
        self._server.wait()


def serve(run: Callable[[Any], int | None]) -> None:
    """Fork a process for each request that comes through the standard input, until that is closed.

    Args:
        run: Called with the request, in the process. Its result is the exit status, as of `sys.exit`.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # none of the children here is waited for
    gc.freeze()  # a collection would write to each object, and so copy all memory that is shared with the children
    with socket.socket(fileno=os.dup(0)) as requests:
        while True:
            message, descriptors, _, _ = socket.recv_fds(requests, _LARGEST, 2)
            if not message:
                return
            if os.fork() == 0:
                requests.close()
                _keep(run, json.loads(message), *descriptors)
            for descriptor in descriptors:
                os.close(descriptor)


def _keep(run: Callable[[Any], int | None], request: Any, answers: int, output: int) -> None:
    """Start the process, tell its id, wait for its end, tell its status, and end."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        with socket.socket(fileno=answers) as answer:
            process = multiprocessing.get_context("fork").Process(target=_run, args=(run, request, answers, output))
            process.start()
            os.close(output)
            with suppress(OSError):  # who asked may have gone; the process goes on
                answer.sendall(f"{process.pid}\n".encode("ascii"))
            process.join()
            with suppress(OSError):
                answer.sendall(f"{process.exitcode}\n".encode("ascii"))
    finally:
        os._exit(0)


def _run(run: Callable[[Any], int | None], request: Any, answers: int, output: int) -> None:
    os.close(answers)
    os.setsid()  # Ctrl-C reaches the study alone, which passes one request on
    nothing = os.open(os.devnull, os.O_RDONLY)
    for stream, descriptor in enumerate((nothing, output, output)):
        os.dup2(descriptor, stream)
    for descriptor in (nothing, output):
        os.close(descriptor)
    sys.exit(run(request))
