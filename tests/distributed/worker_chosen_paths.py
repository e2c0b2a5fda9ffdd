"""Run by each of two processes: searches and a retraining whose path is measured, on process 0 alone."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import problems
import torch

import archgrad as ag
from archgrad.distributed import process_group
from archgrad.engine.path_choice import Trial
from archgrad.fast.native import library

torch.set_num_threads(1)
folder = Path(sys.argv[1])
library.is_built = lambda: False


def seconds(trial: Trial, best: float) -> float:
    assert os.environ["RANK"] == "0"
    trial.step()  # sends no message, which nobody would answer
    return {"plain": 3.0, "torch": 1.0, "grouped": 2.0}[trial.path.present]


Trial.seconds = seconds  # type: ignore[method-assign]


def searched(name: str, **options: Any) -> dict[str, Any]:
    sizes = {"norm": True, "batch_size": 8, "cells": True}
    return problems.searched("first", **sizes, sync_batchnorm=True, run_dir=folder / name, **options)


def retrained(**options: Any) -> dict[str, Any]:
    torch.manual_seed(6)
    space = ag.spaces.darts_cifar(channels=2, cells=3, num_classes=3, in_channels=1, stage="retrain")
    network = ag.derive(space, ag.architectures.DARTS_V2)
    ag.retrain(
        network, problems.images(45, test=7), epochs=1, batch_size=8, seed=3, device="cpu", cutout=0,
        sync_batchnorm=True, quiet=True, **options,
    )  # fmt: skip
    return problems.state_of(network)


with process_group():
    results = {
        "search, told": searched("told", fast="torch"),
        "search": searched("measured"),
        "retrain, told": retrained(fast="torch"),
        "retrain": retrained(),
    }
torch.save(results, sys.argv[-1])
