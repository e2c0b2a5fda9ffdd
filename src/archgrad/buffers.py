"""Forward passes that leave no trace in a module's buffers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

__all__ = ["frozen_buffers", "spare_buffers"]


@contextmanager
def frozen_buffers(module: nn.Module) -> Iterator[None]:
    """Leave every buffer, BatchNorm's running statistics among them, bit for bit as it was.

    In training mode a BatchNorm that tracks no statistics computes the same as one that does. A module may write into
    its buffers or put other tensors in their place; both are undone.
    """
    modules = list(module.modules())
    norms = [m for m in modules if isinstance(m, _NormBase) and m.training and m.track_running_stats]
    theirs = set(map(id, norms))
    others = [(m, dict(m._buffers)) for m in modules if m._buffers and id(m) not in theirs]
    saved = [(buffer, buffer.clone()) for _, buffers in others for buffer in buffers.values() if buffer is not None]
    for norm in norms:
        vars(norm)["track_running_stats"] = False  # a module takes ten times as long to look at what it is given
    try:
        yield
    finally:
        for norm in norms:
            vars(norm)["track_running_stats"] = True
        for owner, buffers in others:
            owner._buffers.update(buffers)
        with torch.no_grad():
            for buffer, value in saved:
                buffer.copy_(value)


@contextmanager
def spare_buffers(module: nn.Module) -> Iterator[None]:
    """Let the module write into copies of its buffers, which are then thrown away.

    Unlike `frozen_buffers` this changes nothing of what a forward pass saves for its backward pass.
    """
    owners = [(m, dict(m._buffers)) for m in module.modules() if m._buffers]
    for owner, buffers in owners:
        owner._buffers.update({name: None if b is None else b.clone() for name, b in buffers.items()})
    try:
        yield
    finally:
        for owner, buffers in owners:
            owner._buffers.update(buffers)
