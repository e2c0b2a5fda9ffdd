"""Starts several processes the way torchrun does, and collects what they return."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import torch

from apart import Apart

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
            Apart(
                [str(HERE / script), *arguments, str(output)],
                environment=environment(rank, ranks, port, **variables),
                ignore_warnings=True,
            )
            for rank, output in enumerate(self.outputs)
        ]

    def results(self) -> list[dict[str, Any]]:
        """Return what each process has saved, all of them having ended well."""
        try:
            for process in self.processes:
                done = process.end(TIMEOUT_SECONDS)
                assert done.returncode == 0, done.stdout + done.stderr
        finally:
            self.kill()
        return [torch.load(output, weights_only=True) for output in self.outputs]

    def kill(self) -> None:
        for process in self.processes:
            process.send_signal(signal.SIGKILL)
