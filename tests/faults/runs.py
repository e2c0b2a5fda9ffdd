"""Searches in this process, and things that happen to them at a given step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import archgrad as ag

from .problems import PROBLEMS, results, run_search

STEPS = 3
"""Of an epoch of the problem "search"."""


def search(folder: Path, *, resume: bool = False, **options: Any) -> ag.SearchResult:
    """The problem "search", first order, so that each step asks for the loss twice: alphas first."""
    return run_search(folder, resume=resume, **{"step": ag.bilevel.FirstOrder(), "checkpoint_steps": None, **options})


Loss = Callable[[Tensor, Tensor], Tensor]


def loss_with(action: Callable[[Tensor], Tensor], *, step: int, of: str = "weights") -> Loss:
    """Return a loss to which something happens once, in a step counted from 0, for the alphas or for the weights."""
    calls = 0

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        nonlocal calls
        value = F.cross_entropy(outputs, targets)
        if not torch.is_grad_enabled():  # the look before the first step
            return value
        calls += 1
        return action(value) if calls - 1 == 2 * step + (of == "weights") else value

    return loss


def loss_that(act: Callable[[], object], *, step: int) -> Loss:
    """Return a loss that does something once and is itself not changed by it."""

    def action(value: Tensor) -> Tensor:
        act()
        return value

    return loss_with(action, step=step)


def outcome(folder: Path) -> dict[str, bytes]:
    """Everything of a finished search that must be the same to the byte."""
    return results(PROBLEMS["search"], folder)
