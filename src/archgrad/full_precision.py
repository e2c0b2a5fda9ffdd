"""Where autocast is left aside."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

__all__ = ["full_precision"]


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """Leave autocast aside on x's device: what is computed inside has the precision of its inputs.

    So are statistics, small matrices, second derivatives, and gradients that are subtracted from each other: the
    rounding of half precision is larger than what is left of them.
    """
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()
