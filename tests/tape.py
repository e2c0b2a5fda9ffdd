"""What stands in for CUDA graphs where there is no GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Tape(TorchDispatchMode):
    """A CUDA graph in the small: operations are noted with the memory that they read and write, and done again there.

    No line of Python that led to them runs again.
    """

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[tuple] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        sources = {_memory(x) for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        results = [x for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        makes_view = results and all(_memory(x) in sources for x in results) and not func._schema.is_mutable
        if not makes_view:
            self.noted.append((func, args, kwargs or {}, result))
        return result

    @torch.no_grad()
    def play(self) -> None:
        for func, args, kwargs, result in self.noted:
            again = func(*args, **kwargs)
            if not func._schema.is_mutable:
                for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                    if isinstance(old, torch.Tensor):
                        old.copy_(new)


def _memory(x: torch.Tensor) -> int:
    return x.untyped_storage().data_ptr()


class TapeRecorder:
    """Stands in for `CudaRecorder` on the CPU, and counts."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    @contextmanager
    def stream(self) -> Iterator[None]:
        yield

    def record(self, run: Callable[[], None]) -> Callable[[], None]:
        self.recorded += 1
        tape = Tape()
        with tape:
            run()

        def replay() -> None:
            self.replayed += 1
            tape.play()

        return replay
