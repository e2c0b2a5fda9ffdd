"""What a recorded pass is made of: how it is recorded, what forbids it, and where its results lie."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["CudaRecorder", "Obstacles", "Packed", "Recorder"]

_WAITS = frozenset(
    ("_local_scalar_dense", "equal", "is_nonzero", "masked_select", "nonzero", "_unique", "_unique2", "unique_dim")
)
"""Operations whose result, or its shape, is read from the device."""


class Recorder(Protocol):
    """Records work of a device, to be done again."""

    def stream(self) -> AbstractContextManager[object]:
        """Return a context in which all work is done, that which is recorded and that which is not."""

    def record(self, run: Callable[[], None]) -> Callable[[], None]:
        """Return a function that does again what `run` does, with the same memory."""


class CudaRecorder:
    """Records CUDA graphs; all of them share their memory, so that only one may be in use at a time.

    Args:
        device: A CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Let work go to the stream that recordings are made on.

        Gradients are bound to the stream that their leaves were first used on, so that passes before a recording must
        run on its stream too, and those of before be gone.
        """
        gc.collect()
        outside = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(outside)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            outside.wait_stream(self._stream)

    def record(self, run: Callable[[], None]) -> Callable[[], None]:
        """Record what `run` sends to the device, without doing it; other threads may use the device meanwhile."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
            run()
        return graph.replay


class Obstacles(TorchDispatchMode):
    """Looks on while a pass runs, and notes what would be other when it is done again without Python.

    That is a number or shape that Python reads from the device, and a tensor of the CPU that goes to it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first: str | None = None
        """What was seen first, and where; None if nothing was."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and look at it."""
        result = func(*args, **(kwargs or {}))
        if self.first is None:
            name = func.overloadpacket.__name__
            devices = {x.device.type for x in tree_leaves((args, kwargs, result)) if isinstance(x, Tensor)}
            masks = name.startswith("index") and any(
                isinstance(x, Tensor) and x.dtype == torch.bool for x in tree_leaves(args[1:2])
            )
            if name in _WAITS or masks:
                self.first = f"{name} reads from the device{_where()}"
            elif "cpu" in devices and len(devices) > 1:
                self.first = f"{name} reads a tensor of the CPU{_where()}"
        return result


def _where() -> str:
    """Name the innermost line that is not the library's."""
    library = Path(torch.__file__).parent
    frames = [
        f for f in traceback.extract_stack() if library not in Path(f.filename).parents and f.filename != __file__
    ]
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""


class Packed:
    """Room for tensors, side by side in one buffer of each type and device.

    Args:
        like: Tensors of the shapes, types and memory orders to make room for.
    """

    _ALIGNED = 32  # elements

    def __init__(self, like: Sequence[Tensor]) -> None:
        ends: dict[tuple[torch.dtype, torch.device], int] = {}
        self._places: list[tuple[tuple[torch.dtype, torch.device], torch.Size, tuple[int, ...], int]] = []
        for tensor in like:
            kind, dense = (tensor.dtype, tensor.device), torch.empty_like(tensor, device="meta")
            self._places.append((kind, dense.shape, dense.stride(), ends.get(kind, 0)))
            rows = -(-dense.numel() // self._ALIGNED)
            ends[kind] = ends.get(kind, 0) + rows * self._ALIGNED
        self._flat = {kind: torch.zeros(end, dtype=kind[0], device=kind[1]) for kind, end in ends.items()}
        self._views = self._cut(self._flat)

    def _cut(self, flat: dict[tuple[torch.dtype, torch.device], Tensor]) -> list[Tensor]:
        return [flat[kind].as_strided(size, stride, offset) for kind, size, stride, offset in self._places]

    @torch.no_grad()
    def fill(self, tensors: Sequence[Tensor]) -> None:
        """Write tensors, one for each of `like`."""
        if self._views:
            torch._foreach_copy_(self._views, list(tensors))

    def copies(self) -> list[Tensor]:
        """Return copies of what was written last."""
        return self._cut({kind: flat.clone() for kind, flat in self._flat.items()})
