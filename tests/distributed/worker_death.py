"""Run by each process: a search in which process 1 dies in its second epoch, unless it was started again."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import problems
import torch
import torch.nn.functional as F
from torch import Tensor

import archgrad as ag
from archgrad.distributed import heartbeat, restarted

torch.set_num_threads(1)
way, folder, output = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
heartbeat._PATIENCE_SECONDS = 4.0
heartbeat._GRACE_SECONDS = 2.0
calls = 0


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    global calls
    calls += torch.is_grad_enabled()  # not the look before the first step
    if calls == 9 and os.environ["RANK"] == "1" and not restarted():
        if way == "error":
            raise ValueError("this process cannot go on")
        os.kill(os.getpid(), signal.SIGKILL if way == "killed" else signal.SIGSTOP)
    return F.cross_entropy(outputs, targets)


supernet = ag.Supernet(problems.dropping_space(), ag.relaxation.Gumbel(), seed=3)
ag.search(
    supernet, problems.images(), epochs=2, batch_size=8, seed=3, device="cpu",
    loss=loss if way != "none" else F.cross_entropy, run_dir=folder / "run", quiet=True,
)  # fmt: skip
if os.environ["RANK"] == "0":
    torch.save(problems.state_of(supernet), output)
