"""Activation checkpointing: forget what a choice computed, and compute it again when the backward pass needs it.

Source: Chen et al. 2016, section 4.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

from torch import nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from archgrad.buffers import spare_buffers

__all__ = ["recomputed"]


def recomputed(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], again: Callable[[], AbstractContextManager[None]]
) -> Any:
    """Return `module(*args, **kwargs)`, whose inner activations are computed a second time in the backward pass.

    The second time sees the weights of the first, which may have been swapped in for this pass only, and the same
    random numbers; and it leaves the buffers alone, so that BatchNorm counts a batch once.

    Args:
        module: Called through its `forward`.
        args: Positional arguments.
        kwargs: Keyword arguments.
        again: Makes the context of the second time.
    """
    weights = dict(module.named_parameters())
    wrapped = _Forward(module)

    def run(*args: Any, **kwargs: Any) -> Any:
        return functional_call(wrapped, {f"module.{name}": weight for name, weight in weights.items()}, args, kwargs)

    def contexts() -> tuple[AbstractContextManager[None], _SecondTime]:
        return nullcontext(), _SecondTime(module, again)

    return checkpoint(run, *args, use_reentrant=False, context_fn=contexts, **kwargs)


class _SecondTime:
    """A context that can be entered again and again: differentiating twice computes activations more than once."""

    def __init__(self, module: nn.Module, again: Callable[[], AbstractContextManager[None]]) -> None:
        self._module, self._again = module, again
        self._stack = ExitStack()

    def __enter__(self) -> None:
        self._stack.enter_context(self._again())
        self._stack.enter_context(spare_buffers(self._module))

    def __exit__(self, *exception: Any) -> None:
        self._stack.pop_all().__exit__(*exception)


class _Forward(nn.Module):
    """Calls another module's `forward` past its `__call__`."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module.forward(*args, **kwargs)
