"""A module's buffers: taken and given back, and forward passes that leave no trace in them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

__all__ = ["all_buffers", "copied_buffers", "frozen_buffers", "kept_buffers", "set_buffers", "spare_buffers"]


def all_buffers(module: nn.Module) -> dict[str, Tensor | None]:
    """Return every buffer by each of its names, those too that the state dict leaves out; None where one is not set."""
    return {
        f"{prefix}.{key}" if prefix else key: buffer
        for prefix, part in module.named_modules(remove_duplicate=False)
        for key, buffer in part._buffers.items()
    }


def copied_buffers(module: nn.Module) -> dict[str, Tensor | None]:
    """Return a copy of every buffer by name, for `set_buffers`."""
    return {name: None if buffer is None else buffer.clone() for name, buffer in all_buffers(module).items()}


def set_buffers(
    module: nn.Module,
    buffers: Mapping[str, Tensor | None],
    *,
    device: torch.device,
    persistent: Collection[str] = (),
) -> None:
    """Give buffers the values that they had, also where the module has put other tensors in their place, or none.

    Args:
        module: Whose buffers; those that `buffers` does not name stay as they are.
        buffers: Name -> value, on any device. Names that the module does not have are left out.
        device: Where a buffer goes that the module has not set.
        persistent: Names of the state dict; a buffer that the module has not registered yet is in it if it is one.

    Raises:
        ValueError: A value is no tensor.
    """
    parts = dict(module.named_modules(remove_duplicate=False))
    with torch.no_grad():
        for name, value in buffers.items():
            if value is not None and not isinstance(value, Tensor):
                raise ValueError(f"the buffer {name!r} is no tensor")
            prefix, _, key = name.rpartition(".")
            part = parts.get(prefix)
            if part is None or (key not in part._buffers and hasattr(part, key)):
                continue
            present = part._buffers.get(key)
            if present is not None and value is not None and _alike(present, value):
                present.copy_(value)  # in place: other modules, and recorded graphs, may hold the same tensor
            elif key in part._buffers:
                part._buffers[key] = None if value is None else value.to(device if present is None else present.device)
            else:  # one that the module registers in its first pass
                part.register_buffer(key, None if value is None else value.to(device), persistent=name in persistent)


def _alike(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.layout == b.layout


@contextmanager
def frozen_buffers(module: nn.Module) -> Iterator[None]:
    """Leave every buffer, BatchNorm's running statistics among them, bit for bit as it was.

    In training mode a BatchNorm that tracks no statistics computes the same as one that does. A module may write into
    its buffers or put other tensors in their place; both are undone.
    """
    modules = list(module.modules())
    norms = [m for m in modules if isinstance(m, _NormBase) and m.training and m.track_running_stats]
    theirs = set(map(id, norms))
    with kept_buffers(m for m in modules if id(m) not in theirs):
        for norm in norms:
            vars(norm)["track_running_stats"] = False  # a module takes ten times as long to look at what it is given
        try:
            yield
        finally:
            for norm in norms:
                vars(norm)["track_running_stats"] = True


@contextmanager
def kept_buffers(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Give modules their buffers back as they were, also where they have written into them or put others in place."""
    owners = [(m, dict(m._buffers)) for m in modules if m._buffers]
    saved = [(buffer, buffer.clone()) for _, buffers in owners for buffer in buffers.values() if buffer is not None]
    try:
        yield
    finally:
        for owner, buffers in owners:
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
