"""Runs of an epoch, and networks with what an export has to handle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from archgrad import spaces
from archgrad.architecture import Architecture
from archgrad.data import Data, load
from archgrad.data.samples import as_samples
from archgrad.derive import derive
from archgrad.retrain import RetrainResult, retrain

TINY = Architecture({"stem": "conv3", "body": "conv", "body/kernel": "conv3", "join": [1]}, space="tiny")
OPTIONS: dict[str, Any] = {"epochs": 1, "batch_size": 32, "quiet": True, "device": "cpu", "drop_path": 0.0, "cutout": 0}


def few_digits(train: int = 320, test: int = 60) -> Data:
    data = load("digits")
    assert data.test is not None
    return replace(
        data,
        train=as_samples(Subset(data.train, range(0, 4 * train, 4))),
        test=as_samples(Subset(data.test, range(0, 6 * test, 6))),
    )


def tiny_network(seed: int = 0, **options: Any) -> nn.Module:
    torch.manual_seed(seed)
    return derive(spaces.tiny(channels=4, **options), TINY)


def tiny_run(folder: Path, **options: Any) -> RetrainResult:
    """A retraining of the space "tiny", as the command line leaves it."""
    config = {"space": "tiny", "channels": 4, "cells": None}
    return retrain(
        tiny_network(), few_digits(), architecture=TINY, run_dir=folder, config=config, **{**OPTIONS, **options}
    )


class WithAuxiliary(nn.Module):
    """A classifier with an auxiliary head, BatchNorm and dropout; `always` returns both heads in prediction, too."""

    def __init__(self, *, always: bool = False) -> None:
        super().__init__()
        self.always = always
        self.features = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU())
        self.dropout = nn.Dropout(0.5)
        self.classifier = nn.Linear(3, 4)
        self.auxiliary_head = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Any:
        pooled = self.features(x).mean(dim=(2, 3))
        logits = self.classifier(self.dropout(pooled))
        return (logits, self.auxiliary_head(pooled)) if self.training or self.always else logits


def with_auxiliary(*, always: bool = False) -> WithAuxiliary:
    """One whose BatchNorm has seen data, so that evaluation differs from training."""
    torch.manual_seed(1)
    network = WithAuxiliary(always=always)
    with torch.no_grad():
        network(torch.randn(16, 1, 6, 6) * 3 + 1)
    return network
