"""Named tensors in safetensors files: weights and predictions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from archgrad.errors import RunError
from archgrad.files import Guard, atomic_write, read_explained

__all__ = ["load_tensors", "save_tensors"]


def save_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    *,
    metadata: Mapping[str, str] | None = None,
    guard: Guard | None = None,
) -> None:
    """Write named tensors as one safetensors file, atomically.

    Args:
        path: Where to; the folder must exist.
        tensors: Of any shape and device; tensors that share memory (tied weights) are written once each.
        metadata: Text that travels in the file's header.
        guard: As in `archgrad.files.atomic_write`.

    Raises:
        RunError: The disk is full, read-only or failing.
    """
    # Copies, because safetensors refuses tensors that share memory; tied weights are such tensors.
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    content = safetensors.torch.save(copies, metadata=dict(metadata) if metadata else None)
    with atomic_write(path, guard=guard) as file:
        file.write(content)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file into memory; nothing in it is executed.

    Returns:
        Name to tensor, on the CPU.

    Raises:
        RunError: The file is missing, damaged, larger than half of this machine's memory, or no safetensors file.
    """
    content = read_explained(path)
    try:
        return safetensors.torch.load(content)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise RunError(
            f"Cannot read '{path}': it is no intact safetensors file ({error}). Take an intact copy; "
            f"pickled files (.pt, .pth) are not read, because reading them can run code."
        ) from error
