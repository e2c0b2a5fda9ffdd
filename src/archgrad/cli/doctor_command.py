"""`archgrad doctor`: what this installation has, and what is missing for which feature."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from archgrad.cli.commands import COMMANDS
from archgrad.cli.parser import Parser
from archgrad.data.cache import cache_root
from archgrad.fast.native import instruction_set, why_missing
from archgrad.machine import machine_memory
from archgrad.terminal import say

__all__ = ["make_parser", "run"]

_NEEDED = (
    *("torch", "torchvision", "lightning-fabric", "torchmetrics", "jsonargparse", "numpy", "scipy", "scikit-learn"),
    *("pillow", "safetensors", "pyyaml", "rich"),
)
_FEATURES = (
    ("archgrad export --onnx, archgrad predict FILE.onnx", ("onnx", "onnxscript", "onnxruntime"), "archgrad[onnx]"),
    ("tables in files .parquet", ("pyarrow",), "archgrad[tables]"),
    ("archgrad study --slurm", ("submitit",), "archgrad[slurm]"),
    ("a search's logger wandb", ("wandb",), "archgrad[wandb]"),
    ("a search's logger mlflow", ("mlflow",), "archgrad[mlflow]"),
    ("a search's logger tensorboard", ("tensorboard",), "tensorboard"),
    ("pictures of architectures (PNG, PDF)", ("matplotlib",), "matplotlib"),
)
"""What one may want to do -> the packages it needs, and what pip is given."""
_LITTLE_DISK_GB = 5


def make_parser() -> Parser:
    """Return the parser."""
    return Parser("doctor", COMMANDS["doctor"])


def run(arguments: Sequence[str]) -> int:
    """Print what there is, then what to do."""
    make_parser().parse_args(list(arguments))
    remedies: list[str] = []
    for what, has in _findings(remedies):
        say(f"{what:14} {has}")
    say("")
    say("\n".join(remedies) if remedies else "Nothing is missing.")
    return 0


def _findings(remedies: list[str]) -> Iterator[tuple[str, str]]:
    """Yield (what, what there is of it); what is missing goes to `remedies` in a line each."""
    yield "archgrad", _version("archgrad") or "not installed (run from its source)"
    yield "python", f"{platform.python_version()} on {platform.platform()}"
    yield "packages", ", ".join(f"{name} {_version(name) or 'missing'}" for name in _NEEDED)
    remedies.extend(f"{name} is missing: pip install {name}" for name in _NEEDED if _version(name) is None)
    level = instruction_set()
    compiler = next((name for name in ("g++", "c++", "clang++") if shutil.which(name)), None)
    yield "kernels", "none: cells are computed by PyTorch's own operations" if level is None else f"for {level}"
    if why := why_missing():
        how = "archgrad again" if compiler else "g++, then archgrad again"
        how = "libgomp (Debian: apt-get install libgomp1)" if "libgomp" in why else how
        remedies.append(
            f"Searches on a CPU are slower than they could be: the compiled kernels {why}. They are for Linux; to have "
            f"them, install {how}."
        )
    yield "compiler", compiler or "none"
    yield "devices", ", ".join(["cpu", *_gpus()])
    yield "threads", f"{torch.get_num_threads()} of {os.cpu_count()} cores"
    memory = machine_memory()
    yield "memory", "unknown" if memory is None else f"{memory / 2**30:.1f} GiB"
    for what, folder in (("disk here", Path.cwd()), ("disk of data", cache_root(None))):
        free = shutil.disk_usage(_existing(folder)).free / 1e9
        yield what, f"{free:.1f} GB free at {folder}"
        if free < _LITTLE_DISK_GB:
            remedies.append(f"There is little room at {folder}: {free:.1f} GB. Data is kept where ARCHGRAD_DATA says.")
    for feature, packages, given in _FEATURES:
        if missing := [name for name in packages if _version(name) is None]:
            remedies.append(f"For {feature}, {', '.join(missing)} is missing: pip install '{given}'")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _gpus() -> list[str]:
    if not torch.cuda.is_available():
        return []
    return [f"cuda:{place} ({torch.cuda.get_device_name(place)})" for place in range(torch.cuda.device_count())]


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest above it that there is."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())
