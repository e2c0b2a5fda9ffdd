"""What a run ran on: versions, hardware, seed and command line, so that its numbers travel with their evidence."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from archgrad.errors import OptionError
from archgrad.fast.native import instruction_set
from archgrad.machine import machine_memory
from archgrad.runs.commit import commit_of

__all__ = ["peak_memory_mb", "pick_device", "record_environment"]

_CHECKOUT = Path(__file__).parents[3]
"""Of an installation that is no checkout, some folder that holds no `.git`."""
_PACKAGES = ("archgrad", "torch", "torchvision", "lightning-fabric", "numpy", "scikit-learn", "safetensors")


def record_environment(*, seed: int, data: str | None = None) -> dict[str, Any]:
    """Return JSON data about this process: time, command line, seed, commit, versions and hardware; and what it reads.

    Args:
        seed: The run's seed.
        data: What the run reads, in a line; None leaves it out.
    """
    return {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command_line": shlex.join(sys.argv),
        "seed": seed,
        **({} if data is None else {"data": data}),
        **({} if (commit := commit_of(_CHECKOUT)) is None else {"commit": commit}),
        "versions": {"python": platform.python_version(), **_package_versions(), **_cuda_versions()},
        "hardware": {
            "platform": platform.platform(),
            "processor": _processor_name(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "kernels": instruction_set(),
            "memory_mb": None if (memory := machine_memory()) is None else memory // 2**20,
            "gpus": _gpus(),
        },
    }


def pick_device(name: str | torch.device) -> torch.device:
    """Return the device to compute on.

    Args:
        name: "auto" (CUDA if there is any, else CPU), or a torch device such as "cpu" or "cuda:1".

    Raises:
        OptionError: There is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise OptionError(f"device={str(name)!r} cannot be used here: {reason}. Use 'auto' or 'cpu'.") from error
    return device


def peak_memory_mb(device: torch.device) -> float | None:
    """Return the most memory that this process has used so far, in MiB: of the GPU's for CUDA, else resident memory.

    None where the system does not tell (Windows).
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _package_versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _cuda_versions() -> dict[str, str]:
    if not torch.cuda.is_available():
        return {}
    return {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}


def _gpus() -> list[dict[str, Any]]:
    if not torch.cuda.is_available():
        return []
    properties = (torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count()))
    return [{"name": gpu.name, "memory_mb": gpu.total_memory // 2**20} for gpu in properties]


def _processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()
