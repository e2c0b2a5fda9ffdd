"""The compiled kernels with other instruction sets than this machine's best, and with other numbers of threads."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

LEVEL = os.environ.get("ARCHGRAD_LEVEL_TEST")
"""The instruction set that this process was told to use no more than."""
EXAMPLES = 25 if LEVEL is None else 8


def run_with_level(level: str, file: str) -> subprocess.CompletedProcess[str]:
    """Run the tests of a file in a process that is told to use no more than an instruction set."""
    if torch.backends.cpu.get_cpu_capability().lower() == level:
        pytest.skip("this process uses them")
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": level, "ARCHGRAD_LEVEL_TEST": level}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", file]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def with_threads(compute: Callable[[], Sequence[Tensor]]) -> list[Sequence[Tensor]]:
    """Return what is computed with one, two and three threads."""
    threads, found = torch.get_num_threads(), []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            found.append(compute())
    finally:
        torch.set_num_threads(threads)
    return found
