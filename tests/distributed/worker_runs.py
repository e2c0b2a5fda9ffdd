"""Run by each of two processes: runs that are broken off by a signal to process 1 alone, and resumed."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import problems
import torch
import torch.nn.functional as F
from torch import Tensor

import archgrad as ag
from archgrad.distributed import process_group, rank
from archgrad.engine import EpochState
from archgrad.runs import Interrupted

torch.set_num_threads(1)
folder = Path(sys.argv[1])


class Signalling:
    """A loss that sends this process SIGTERM when process 1 calls it for the n-th time."""

    def __init__(self, call: int) -> None:
        self.left = call

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if not torch.is_grad_enabled():  # the look before the first step
            return F.cross_entropy(outputs, targets)
        self.left -= 1
        if self.left == 0 and rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return F.cross_entropy(outputs, targets)


class Told:
    """Asks process 0 to stop after the first epoch, and must not be called elsewhere."""

    def __call__(self, state: EpochState) -> bool:
        assert rank() == 0
        return True


def searched(name: str, loss: Any = F.cross_entropy, **options: Any) -> dict[str, Any]:
    supernet = ag.Supernet(problems.dropping_space(), ag.relaxation.Gumbel(), seed=3)
    try:
        ag.search(
            supernet, problems.images(), epochs=2, batch_size=8, seed=3, loss=loss, device="cpu",
            run_dir=folder / name, quiet=True, **options,
        )  # fmt: skip
    except Interrupted as interruption:
        return {"status": interruption.code}
    return problems.state_of(supernet)


def retrained(name: str, *, signalled: bool = False, **options: Any) -> dict[str, Any]:
    torch.manual_seed(6)
    network = problems.Dropping()
    if signalled and rank() == 1:
        network.signal()
    try:
        ag.retrain(
            network, problems.images(45, test=7), epochs=2, batch_size=8, seed=3, device="cpu", cutout=0,
            run_dir=folder / name, quiet=True, **options,
        )  # fmt: skip
    except Interrupted as interruption:
        return {"status": interruption.code}
    return problems.state_of(network)


def trained(name: str, loss: Any = F.cross_entropy, *, resume: bool = False) -> dict[str, Any]:
    trainer = ag.DartsTrainer(
        problems.dropping_space(), loss, accuracy, torch.optim.SGD, 2,
        problems.images(), batch_size=8, workers=0, device="cpu", seed=3, run_dir=folder / name, quiet=True,
    )  # fmt: skip
    try:
        result = trainer.fit(resume=resume)
    except Interrupted as interruption:
        return {"status": interruption.code}
    return {"architecture": result.architecture.to_json(), "accuracy": result.history[-1]["train_accuracy"]}


def accuracy(outputs: Tensor, targets: Tensor) -> dict[str, float]:
    return {"accuracy": (outputs.argmax(1) == targets).float().mean().item()}


with process_group():
    # The search's loss is called twice a step. All stop after the step that begins next: the first search at the end of
    # its epoch, the others before the last of 3 steps.
    results = {
        "search": searched("search"),
        "search, signalled": searched("search-2", Signalling(4)),
        "search, resumed": searched("search-2", resume=True),
        "search, left by two": searched("search-1", Signalling(2)),
        "search, told to stop": searched("search-3", on_epoch=Told()),
        "search, out of time": searched("search-4", max_minutes=1e-9),
        "search, in time": searched("search-4", resume="auto"),
        # One loss for all three: torch's own is averaged by another kernel, which rounds otherwise on some processors.
        "trainer": trained("trainer", Signalling(0)),
        "trainer, signalled": trained("trainer-2", Signalling(4)),
        "trainer, resumed": trained("trainer-2", Signalling(0), resume=True),
        "retrain": retrained("retrain"),
        "retrain, signalled": retrained("retrain-2", signalled=True),
        "retrain, resumed": retrained("retrain-2", resume=True),
        "retrain, left by two": retrained("retrain-1", signalled=True),
    }
torch.save(results, sys.argv[-1])
