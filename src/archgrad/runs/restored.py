"""What a checkpoint holds besides weights, checked before a run goes on from it: a checksum only tells of accidents."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from archgrad.checks import is_whole
from archgrad.errors import ArchgradError, RunError
from archgrad.json_text import shown, shown_text
from archgrad.sizes import LARGEST

__all__ = ["checkpoint_explained", "count_in", "load_optimizer", "numbers_in", "rows_in", "tensors_in"]


@contextmanager
def checkpoint_explained(run: str) -> Iterator[None]:
    """Turn whatever is raised when a foreign state is taken over into a RunError.

    Args:
        run: "search" or "retraining".

    Raises:
        RunError: Something was raised inside.
    """
    try:
        yield
    except ArchgradError:
        raise
    except Exception as error:  # random generators, optimizers and modules raise nearly anything
        reason = shown_text(str(error).splitlines()[0] if str(error) else type(error).__name__)
        raise RunError(
            f"The checkpoint does not fit this {run} ({type(error).__name__}: {reason}). "
            f"Resume with the space, data and options that the run was started with, or use an intact checkpoint."
        ) from error


def count_in(state: Mapping[str, Any], name: str, *, least: int = 0, most: int = LARGEST) -> int:
    """Return a whole number of a state.

    Raises:
        ValueError: It is none, or outside the range.
    """
    value = state[name]
    if not is_whole(value, least=least) or value > most:
        raise ValueError(f"{name} must be a whole number from {least} to {most}, but is {shown(value)}")
    return value


def numbers_in(state: Any, what: str, *, finite: bool = False, none: bool = False) -> dict[str, Any]:
    """Return a mapping of names to numbers.

    Args:
        state: Of anyone's making.
        what: What it is, for the message.
        finite: Whether each must be finite.
        none: Whether one may be None instead.

    Raises:
        ValueError: It is no such mapping.
    """
    if not isinstance(state, Mapping):
        raise ValueError(f"{what} must hold numbers by name, but is {shown(state)}")
    for name, value in state.items():
        if not isinstance(name, str) or not ((none and value is None) or _is_number(value, finite=finite)):
            raise ValueError(f"{what} must hold numbers by name, but has {shown(name)}: {shown(value)}")
    return dict(state)


def tensors_in(state: Any, what: str) -> dict[str, Tensor]:
    """Return a mapping of names to tensors of finite numbers.

    Raises:
        ValueError: It is no such mapping.
    """
    if not isinstance(state, Mapping) or not all(
        isinstance(x, Tensor) and bool(x.isfinite().all()) for x in state.values()
    ):
        raise ValueError(f"the memory of {what} must hold tensors of finite numbers by name")
    return dict(state)


def rows_in(state: Any, what: str) -> list[dict[str, Any]]:
    """Return a list of rows of numbers, None where one is missing.

    Raises:
        ValueError: It is no such list.
    """
    if not isinstance(state, list):
        raise ValueError(f"{what} must be a list, but is {shown(state)}")
    return [numbers_in(row, what, none=True) for row in state]


def load_optimizer(optimizer: Optimizer, state: Any) -> None:
    """Take over an optimizer's state that fits its weights.

    Raises:
        ValueError: A tensor has another shape than its weight, or an option is of another kind than it was.
        Exception: Whatever else the optimizer raises.
    """
    before = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, old in zip(optimizer.param_groups, before, strict=True):
        for name, value in group.items():
            if name != "params" and not _is_alike(value, old.get(name, 0.0)):
                raise ValueError(f"the optimizer's {name} is {shown(value)}")
        for weight in group["params"]:
            for name, value in optimizer.state.get(weight, {}).items():
                if isinstance(value, Tensor):
                    fits = value.dim() == 0 or value.shape == weight.shape
                else:
                    fits = value is None or _is_number(value, finite=True)
                if not fits:
                    raise ValueError(f"the optimizer's {name} of a weight of shape {tuple(weight.shape)} does not fit")


def _is_alike(value: Any, old: Any) -> bool:
    if isinstance(old, (tuple, list)):
        return isinstance(value, (tuple, list)) and len(value) == len(old) and all(map(_is_alike, value, old))
    if isinstance(old, (int, float)) and not isinstance(old, bool):
        return _is_number(value, finite=True) or isinstance(value, Tensor)
    return isinstance(value, type(old)) or value is None


def _is_number(value: Any, *, finite: bool) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) < 2**63 if isinstance(value, int) else math.isfinite(value) or not finite
