"""The types that passes compute in."""

from __future__ import annotations

import warnings

import torch

from archgrad.engine.training_options import Precision

__all__ = ["autocast", "check_device"]

_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
_COMPUTES_BFLOAT16 = 8
"""The compute capability from which on a GPU has bfloat16; others emulate it."""


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Return a context in which passes compute in half precision, if that is asked for."""
    return torch.autocast(device.type, _HALF.get(precision, torch.bfloat16), enabled=precision in _HALF)


def check_device(device: torch.device, precision: Precision) -> None:
    """Warn of a precision that a GPU emulates."""
    if precision == "bf16" and device.type == "cuda":
        major, _ = torch.cuda.get_device_capability(device)
        if major < _COMPUTES_BFLOAT16:
            warnings.warn(
                f"{torch.cuda.get_device_name(device)} has no bfloat16 and emulates it, which takes longer than "
                f"single precision. Give precision='fp16'.",
                stacklevel=3,
            )
