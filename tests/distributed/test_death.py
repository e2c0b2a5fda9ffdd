"""A process that dies stops the others, with a reason, and torchrun goes on from the checkpoint."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from ranks import HERE, Ranks, environment, free_port


def others_say(ranks: Ranks) -> tuple[int, str]:
    """Wait for process 0 alone, and return its status and what it said."""
    try:
        done = ranks.processes[0].end(120)
    finally:
        ranks.kill()
    return done.returncode, done.stdout + done.stderr


def test_a_killed_process_stops_the_others(tmp_path: Path) -> None:
    ranks = Ranks("worker_death.py", tmp_path, "killed", str(tmp_path))
    ranks.processes[1].wait(120)
    died = time.monotonic()
    status, said = others_say(ranks)
    assert time.monotonic() - died < 60
    assert status != 0
    assert "Process 0 of 2 gets no answer from the others" in said
    assert "Go on from the last checkpoint" in said
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()


def test_a_process_that_stands_still_stops_the_others(tmp_path: Path) -> None:
    # Its connections stay open, so that only the missing heartbeat tells; patience is 4 s here, 40 s in earnest.
    status, said = others_say(Ranks("worker_death.py", tmp_path, "stopped", str(tmp_path)))
    assert status != 0
    assert "process 1 has given no sign of life for 4 s" in said


def test_an_error_of_one_process_is_told_by_the_others(tmp_path: Path) -> None:
    status, said = others_say(Ranks("worker_death.py", tmp_path, "error", str(tmp_path)))
    assert status != 0
    assert "process 1 stopped: ValueError: this process cannot go on" in said


@pytest.mark.slow
def test_torchrun_goes_on_from_the_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "restarted"
    folder.mkdir()
    command = [
        sys.executable, "-W", "ignore", "-m", "torch.distributed.run",
        "--nproc-per-node", "2", "--max-restarts", "1", "--master-port", str(free_port()),
        str(HERE / "worker_death.py"), "killed", str(folder), str(folder / "out.pt"),
    ]  # fmt: skip
    variables = {k: v for k, v in environment(0, 1, 0).items() if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    restarted = torch.load(folder / "out.pt", weights_only=True)["state"]

    ranks = Ranks("worker_death.py", tmp_path / "whole", "none", str(tmp_path / "whole"))
    assert others_say(ranks)[0] == 0
    whole = torch.load(ranks.outputs[0], weights_only=True)["state"]
    for name, value in whole.items():
        assert torch.equal(restarted[name], value), name
    metrics = [(tmp_path / name / "run" / "metrics.csv").read_bytes() for name in ("whole", "restarted")]
    assert metrics[0] == metrics[1]
