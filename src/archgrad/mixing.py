"""The weighted sum of what several candidates return."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from archgrad.errors import SpaceError

__all__ = ["weighted_sum"]

Describe = Callable[[int], tuple[str, str]]


def weighted_sum(
    values: Sequence[Any], weights: Tensor, active: Sequence[int], describe: Describe, reaches_inactive: bool = False
) -> Any:
    """Return the sum of `weights[k] * value` over the active candidates.

    Args:
        values: One per active candidate: tensors of equal shape, or equal structures (tuple, list, dict) of them.
        weights: (K,), the weights of all candidates.
        active: The candidates that `values` belong to, in the same order.
        describe: Candidate number -> (choice, candidate) for error messages.
        reaches_inactive: Add the weights of the inactive candidates (zero in value) to every element, so that gradients
            reach them too (Dong and Yang 2019, as their code does).

    Returns:
        The structure and shapes of one value.

    Raises:
        SpaceError: The values differ in structure or shape; the message names the choice, the candidates and both.
    """
    scalars = weights.unbind()
    offset = None
    if reaches_inactive:
        inactive = [scalars[k] for k in range(len(scalars)) if k not in active]
        offset = torch.stack(inactive).sum() if inactive else None
    return _combine(list(values), [scalars[k] for k in active], offset, active, describe)


def _combine(
    values: list[Any], weights: list[Tensor], offset: Tensor | None, active: Sequence[int], describe: Describe
) -> Any:
    first = values[0]
    _check_alike(values, active, describe)
    if isinstance(first, Tensor):
        total = weights[0] * first
        for weight, value in zip(weights[1:], values[1:], strict=True):
            total = total + weight * value
        return total if offset is None else total + offset
    if isinstance(first, Mapping):
        return {key: _combine([v[key] for v in values], weights, offset, active, describe) for key in first}
    if isinstance(first, tuple | list):
        parts = [_combine([v[i] for v in values], weights, offset, active, describe) for i in range(len(first))]
        return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)
    return first


def _check_alike(values: list[Any], active: Sequence[int], describe: Describe) -> None:
    first = _outline(values[0])
    for value, k in zip(values[1:], active[1:], strict=True):
        if (other := _outline(value)) != first:
            (choice, name), (_, other_name) = describe(active[0]), describe(k)
            raise SpaceError(
                f"{choice} needs candidates of equal output shape, but '{name}' gives {_show(first)} and "
                f"'{other_name}' gives {_show(other)}. Give them the same stride, padding and channels, "
                f"or leave one out."
            )


def _outline(value: Any) -> Any:
    """What two values must share to be added: a tensor's shape, or a structure's kind and keys (its parts later)."""
    if isinstance(value, Tensor):
        return value.shape
    if isinstance(value, Mapping):
        return ("dict", tuple(sorted(map(str, value))))
    if isinstance(value, tuple | list):
        return (type(value).__name__, len(value))
    return ("constant", repr(value))


def _show(outline: Any) -> str:
    return str(tuple(outline)) if isinstance(outline, torch.Size) else f"a {outline[0]} of {outline[1]}"
