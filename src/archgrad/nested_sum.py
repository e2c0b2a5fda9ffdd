"""The weighted sum of what several candidates return."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from archgrad.errors import SpaceError
from archgrad.nested import is_structure, joined

__all__ = ["check_alike", "weighted_sum"]

Describe = Callable[[int], tuple[str, str]]
_CONSTANTS = (type(None), bool, int, float, str, bytes)
"""What may stand beside tensors in an output; it must be equal in all candidates."""


def weighted_sum(
    values: Sequence[Any], weights: Tensor, active: Sequence[int], describe: Describe, straight_through: bool = False
) -> Any:
    """Return the sum of `weights[k] * value` over the active candidates.

    Args:
        values: One per active candidate: tensors of equal shape, or equal structures (tuple, list, dict) of them.
        weights: (K,), the weights of all candidates.
        active: The candidates that `values` belong to, in the same order.
        describe: Candidate number -> (choice, candidate) for error messages.
        straight_through: Add the weights of the inactive candidates (zero in value) to every element, so that gradients
            reach them too (Dong and Yang 2019, as their code does).

    Returns:
        The structure and shapes of one value.

    Raises:
        SpaceError: The values differ in structure or shape, or hold what cannot be mixed; the message names the choice,
            the candidates and both.
    """
    scalars = weights.unbind()
    offset = None
    if straight_through:
        inactive = [scalars[k] for k in range(len(scalars)) if k not in active]
        offset = torch.stack(inactive).sum() if inactive else None

    def mix(tensors: list[Tensor]) -> Tensor:
        total = scalars[active[0]] * tensors[0]
        for k, tensor in zip(active[1:], tensors[1:], strict=True):
            total = total + scalars[k] * tensor
        return total if offset is None else total + offset

    return joined(values, mix, lambda parts: check_alike(parts, active, describe))


def check_alike(values: Sequence[Any], active: Sequence[int], describe: Describe) -> None:
    """Raise SpaceError, as `weighted_sum` does, if values cannot be mixed; structures are looked at from outside."""
    choice, name = describe(active[0])
    if not isinstance(values[0], (Tensor, *_CONSTANTS)) and not is_structure(values[0]):
        raise SpaceError(
            f"{choice} can mix tensors, and tuples, lists and dicts of tensors, but '{name}' gives a "
            f"{type(values[0]).__name__}. Return one of these."
        )
    first = _outline(values[0])
    for value, k in zip(values[1:], active[1:], strict=True):
        if (other := _outline(value)) != first:
            raise SpaceError(
                f"{choice} needs candidates of equal output shape, but '{name}' gives {_show(first)} and "
                f"'{describe(k)[1]}' gives {_show(other)}. Give them the same stride, padding and channels, "
                f"or leave one out."
            )


def _outline(value: Any) -> Any:
    """What two values must share to be added: a tensor's shape, or a structure's kind and keys (its parts later)."""
    if isinstance(value, Tensor):
        return value.shape
    if isinstance(value, Mapping):
        return ("dict", tuple(sorted(map(str, value))))
    if is_structure(value):
        return (type(value).__name__, len(value))
    return (type(value).__name__, repr(value))


def _show(outline: Any) -> str:
    return str(tuple(outline)) if isinstance(outline, torch.Size) else f"a {outline[0]} of {outline[1]}"
