"""The compiled kernels: whether they are there, for which tensors, and how they are called.

They are built when the package is installed, if there is a C++ compiler with OpenMP; without them, the rest of the fast
path does the same with the operations of PyTorch.
"""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

__all__ = ["InvertedJob", "Job", "allowed", "call", "image_like", "instruction_set", "is_built", "takes", "why_missing"]

_INTERFACE = 10  # of `job.hpp`
_NAMES = {torch.float32: "f32", torch.float64: "f64"}
_LEVELS = {"AVX512": "avx512", "AVX2": "avx2"}
_left_out: ContextVar[bool] = ContextVar("kernels_left_out", default=False)


def _fields(pointers: Sequence[str], numbers: Sequence[str]) -> tuple[tuple[str, type], ...]:
    return (*((name, ctypes.c_void_p) for name in pointers), *((name, ctypes.c_int64) for name in numbers))


class Job(ctypes.Structure):
    """One depthwise convolution and the projection behind it; the fields are explained in `job.hpp`."""

    _fields_ = _fields(
        (
            *("input", "weight", "projection", "result", "mean", "variance", "strength", "offset", "factor", "output"),
            *("grad", "products", "totals", "by_grad", "by_result", "constant"),
            *("d_input", "d_weight", "d_projection", "part", "grad_part", "d_result"),
        ),
        (
            *("batch", "in_height", "in_width", "channels", "height", "width", "outputs"),
            *("kernel", "stride", "padding", "dilation", "pool", "relu_input", "factorized", "relu_output", "adds"),
        ),
    )

    @property
    def widest(self) -> int:
        """Most channels of an image."""
        return max(self.channels, self.outputs)


class InvertedJob(ctypes.Structure):
    """One inverted residual; the fields are explained in `job.hpp`."""

    _fields_ = (
        *_fields(
            (
                *("input", "mean", "covariance"),
                *("expansion", "expansion_offset", "weight", "convolved", "convolved_mean", "convolved_variance"),
                *("strength", "offset", "projection", "result", "result_mean", "result_variance"),
                *("grad", "by_grad", "by_result", "constant", "d_line", "totals", "products", "d_projection"),
                *("by_line", "by_convolved", "convolved_constant", "d_weight"),
                *("expansion_totals", "expansion_products", "d_expansion", "d_input"),
            ),
            (
                *("batch", "in_height", "in_width", "channels", "hidden", "height", "width", "outputs"),
                *("kernel", "stride", "padding", "dilation", "adds"),
            ),
        ),
        ("limit", ctypes.c_double),
    )

    @property
    def widest(self) -> int:
        """Most channels of an image."""
        return self.hidden


def is_built() -> bool:
    """Return whether the package was installed with its kernels."""
    return _library()[0] is not None


def why_missing() -> str:
    """Return why there are no kernels, to go on after "the compiled kernels"; "" where there are."""
    return _library()[1]


def allowed(kernels: bool) -> AbstractContextManager[None]:
    """Return a context in which the kernels take nothing, unless they are allowed to."""
    return nullcontext() if kernels else _without()


@contextmanager
def _without() -> Iterator[None]:
    token = _left_out.set(True)
    try:
        yield
    finally:
        _left_out.reset(token)


def takes(*tensors: Tensor) -> bool:
    """Return whether the kernels can compute with these: on the CPU, of one type, and nobody watches operations."""
    dtype = tensors[0].dtype
    return (
        dtype in _NAMES
        and not _left_out.get()
        and all(_is_plain(t, dtype) for t in tensors)
        and is_built()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and _get_current_dispatch_mode() is None
    )


def _is_plain(x: Tensor, dtype: torch.dtype) -> bool:
    return type(x) in (Tensor, torch.nn.Parameter) and x.device.type == "cpu" and x.dtype == dtype and x.numel() > 0


def image_like(x: Tensor, channels: int, height: int, width: int) -> Tensor:
    """An image that has not been written to, (B, channels, height, width), channels_last."""
    strides = (height * width * channels, 1, width * channels, channels)
    return x.new_empty_strided((x.shape[0], channels, height, width), strides)


def call(name: str, jobs: Sequence[Job] | Sequence[InvertedJob], dtype: torch.dtype) -> None:
    """Run a pass: "transform", "combine", "reduce" or "backpropagate" of a stage; "weave" or "unweave"; or, with one
    job, "covary", "widen", "narrow", "narrow_back" or "widen_back" of an inverted residual."""
    if not jobs:
        return
    function = _function(f"archgrad_{name}_{_NAMES[dtype]}_{_level_for(jobs, dtype)}")
    kind: Any = type(jobs[0])
    function((kind * len(jobs))(*jobs), ctypes.c_int64(len(jobs)))


@cache
def _function(name: str) -> Callable[..., Any]:
    library, _ = _library()
    assert library is not None
    return library[name]


@cache
def _library() -> tuple[ctypes.CDLL | None, str]:
    """Return the kernels, or None and why there are none."""
    why = "were not built"
    for path in sorted(Path(__file__).parent.glob("_kernels*.so")):
        try:
            library = ctypes.CDLL(str(path))
        except OSError as error:  # what they need, such as OpenMP's libgomp.so.1, may not be on this machine
            why = f"cannot be loaded ({error})"
            continue
        library.archgrad_interface.restype = ctypes.c_int64
        if library.archgrad_interface() == _INTERFACE * 10000 + ctypes.sizeof(Job) + ctypes.sizeof(InvertedJob):
            return library, ""
        why = "were built from other sources"
        warnings.warn(f"{path.name}: the compiled kernels {why}. Install archgrad again.", stacklevel=2)
    return None, why


def instruction_set() -> str | None:
    """Return which the kernels use: "avx512", "avx2" or "baseline"; None if they were not built."""
    return _level() if is_built() else None


def _level_for(jobs: Sequence[Job] | Sequence[InvertedJob], dtype: torch.dtype) -> str:
    """The best level, but no vectors of which half would be idle: 512 bits are for 9 channels or more, 5 of doubles."""
    level = _level()
    if level == "avx512" and all(job.widest * dtype.itemsize <= 32 for job in jobs):
        return "avx2"
    return level


@cache
def _level() -> str:
    """The best that both the machine and the build have."""
    level = _LEVELS.get(torch.backends.cpu.get_cpu_capability(), "baseline")
    return level if hasattr(_library()[0], f"archgrad_reduce_f32_{level}") else "baseline"
