"""One of the steps that the authors' codes were recorded at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

import archgrad as ag
from archgrad.bilevel import FirstOrder, StepReport, search_step

__all__ = ["recorded_step"]


def recorded_step(
    supernet: ag.Supernet,
    given: Mapping[str, Tensor],
    number: int,
    weights: torch.optim.Optimizer,
    alphas: torch.optim.Optimizer,
    **parts: Any,
) -> StepReport:
    """Take a step of first order on the batches that a file has for it."""
    return search_step(
        supernet,
        (given["x_train"][number], given["y_train"][number]),
        (given["x_valid"][number], given["y_valid"][number]),
        step=FirstOrder(),
        weights_optimizer=weights,
        alphas_optimizer=alphas,
        **parts,
    )
