"""The factor that losses are multiplied by so that their gradients are numbers of float16, and not 0 or infinite."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

__all__ = ["LossScale", "loss_scale"]

_FIRST, _LEAST = 2.0**16, 1.0
_STEPS_UNTIL_DOUBLED = 2000

_of_passes: ContextVar[float] = ContextVar("loss_scale", default=1.0)


def loss_scale() -> float:
    """Return what the loss of a pass is multiplied by, and its gradients are divided by."""
    return _of_passes.get()


class LossScale:
    """A factor that is halved where a gradient is not finite, and doubled after 2,000 steps without: `GradScaler`'s.

    A step whose gradient was not finite is left out or taken again. Gradients are divided by the factor as soon as they
    are there, so that nothing else knows of it: clipping, penalties and products of gradients see the loss's own.

    Args:
        enabled: Whether there is one, as for float16; else it is 1 and stays so.

    Attributes:
        value: The factor, a power of 2.

    Source: Micikevicius et al. 2018, section 3.2.
    """

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled
        self.value = _FIRST if enabled else 1.0
        self._steps = 0

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let passes inside be scaled."""
        token = _of_passes.set(self.value)
        try:
            yield
        finally:
            _of_passes.reset(token)

    def step_taken(self) -> None:
        """Take note of a step whose gradients were finite."""
        self._steps += 1
        if self.enabled and self._steps % _STEPS_UNTIL_DOUBLED == 0:
            self.value *= 2.0

    def can_fall(self) -> bool:
        """Halve the factor; return False where it is the least already, so that the loss itself is not finite."""
        if self.value <= _LEAST:
            return False
        self.value, self._steps = self.value / 2.0, 0
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers; nothing where there is no factor."""
        return {"value": self.value, "steps": self._steps} if self.enabled else {}

    def load_state_dict(self, state: Any) -> None:
        """Take over what `state_dict` gave.

        Raises:
            ValueError: It is something else.
        """
        if not isinstance(state, Mapping) or bool(state) != self.enabled:
            raise ValueError("the loss scale does not go with the precision")
        if self.enabled:
            value, steps = state.get("value"), state.get("steps")
            if not isinstance(value, float) or not math.isfinite(value) or value < _LEAST or not isinstance(steps, int):
                raise ValueError("the loss scale is no number of at least 1")
            self.value, self._steps = value, int(steps)
