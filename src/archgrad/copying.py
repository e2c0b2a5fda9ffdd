"""Copies of a user's modules, whatever they keep beside their weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, TypeVar

from torch import nn

from archgrad.errors import SpaceError
from archgrad.nested import tensors_in

__all__ = ["copied"]

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def copied(module: AnyModule, *, left_out: Sequence[nn.Module] = ()) -> AnyModule:
    """Return a deep copy of a module.

    A tensor that was computed from others, such as an activation that a module keeps or the weight that
    `torch.nn.utils.weight_norm` computes anew in each pass, is copied as a constant.

    Args:
        module: Stays as it is.
        left_out: Parts of it that are not copied: the copy has them in common with it, until they are taken out.

    Raises:
        SpaceError: A part of it cannot be copied.
    """
    known: dict[int, Any] = {id(part): part for part in left_out}  # what stands in the memo counts as copied already
    common = {id(each) for part in left_out for each in part.modules()}
    for part in module.modules():
        if id(part) not in common:
            known.update(
                (id(tensor), tensor.detach().clone()) for tensor in tensors_in(vars(part)) if not tensor.is_leaf
            )
    try:
        made = copy.deepcopy(module, known)
    except (TypeError, RuntimeError) as error:  # what PyTorch, pickle and others say of what they cannot copy
        raise SpaceError(
            f"{type(module).__name__} cannot be copied, which search and derive must: {error}. Keep generators, open "
            f"files, locks and connections out of modules, or give their class a __deepcopy__."
        ) from error
    strange = next((name for name, weight in made.named_parameters() if not weight.is_leaf), None)
    if strange is not None:
        raise SpaceError(
            f"The weight '{strange}' of {type(module).__name__} is no weight any more when it is copied, as in modules "
            f"of torch.jit.script. Give the module as it was before."
        )
    return made
