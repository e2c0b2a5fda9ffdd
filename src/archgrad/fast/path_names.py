"""The paths through a network, which give the same numbers, and which of them is taken where.

- "plain": each operation as it is written.
- "torch": what operations have in common is computed once, by PyTorch's operations.
- "native": the same, by the compiled kernels where they know how; on a CPU alone.
- "grouped": cells in few large operations, for devices on which starting one costs as much as running it. What stands
  in no open cell runs as it is written.

On all but the first, images are in channels_last where that is known to change nothing (`memory_format`).
"""

from __future__ import annotations

from typing import Literal, get_args

import torch

from archgrad.checks import check_word
from archgrad.errors import OptionError
from archgrad.fast.native import library

__all__ = ["Asked", "Fast", "Path", "asked_path", "check_path", "open_paths", "usual_path"]

Path = Literal["plain", "native", "torch", "grouped"]
Asked = Literal["plain", "native", "torch", "grouped", "auto"]
"""A path, or "auto", which takes one."""
Fast = bool | Asked
"""What options take: True is "auto" and False "plain"."""


def asked_path(fast: Fast) -> Asked:
    """Return what an option asks for, in a word.

    Raises:
        OptionError: It is none of the paths.
    """
    if isinstance(fast, bool):
        return "auto" if fast else "plain"
    check_word("fast", fast, get_args(Asked))
    return fast


def check_path(asked: Asked, device: torch.device) -> None:
    """Check that a network on a device can take a path.

    Raises:
        OptionError: It cannot.
    """
    if asked != "native":
        return
    if device.type != "cpu":
        raise OptionError(
            f"fast='native' is computed by kernels for the CPU, but the network is on '{device}'. Give fast='auto', or "
            f"device='cpu'."
        )
    if not library.is_built():
        why = library.why_missing() or "were not built"
        raise OptionError(
            f"fast='native' needs the compiled kernels, but they {why}. `archgrad doctor` says what to do; or give "
            f"fast='auto'."
        )


def usual_path(device: torch.device) -> Path:
    """Return the path that "auto" takes on a device where nothing was timed."""
    if device.type != "cpu":
        return "grouped"
    return "native" if library.is_built() else "torch"


def open_paths(asked: Asked, device: torch.device) -> tuple[Path, ...]:
    """Return the paths of which the quickest is not known, "plain" first; none where it is, or one is asked for."""
    is_open = asked == "auto" and usual_path(device) != "native"
    return ("plain", "torch", "grouped") if is_open else ()
