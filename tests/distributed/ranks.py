"""Starts several processes the way torchrun does, and collects what they return."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
TIMEOUT_SECONDS = 240


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(rank: int, ranks: int, port: int, **more: str) -> dict[str, str]:
    return {
        **os.environ,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path]),
        **more,
    }


class Ranks:
    """Processes that each run `script.py ARGUMENTS OUT` with an output file of its own."""

    def __init__(self, script: str, folder: Path, *arguments: str, ranks: int = 2, **variables: str) -> None:
        port = free_port()
        folder.mkdir(parents=True, exist_ok=True)
        self.outputs = [folder / f"rank{rank}.pt" for rank in range(ranks)]
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-W", "ignore", str(HERE / script), *arguments, str(output)],
                env=environment(rank, ranks, port, **variables),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank, output in enumerate(self.outputs)
        ]

    def wait(self, *, timeout: float = TIMEOUT_SECONDS) -> list[tuple[int, str]]:
        """Return the exit status and the output of each."""
        try:
            said = [process.communicate(timeout=timeout)[0] for process in self.processes]
        finally:
            for process in self.processes:
                if process.poll() is None:
                    process.send_signal(signal.SIGKILL)
        return [(process.returncode, text) for process, text in zip(self.processes, said, strict=True)]

    def results(self) -> list[dict[str, Any]]:
        """Return what each process has saved, all of them having ended well."""
        for status, text in self.wait():
            assert status == 0, text
        return [torch.load(output, weights_only=True) for output in self.outputs]
