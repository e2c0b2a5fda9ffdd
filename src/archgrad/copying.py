"""Copies of a user's modules, whatever they keep beside their weights."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn

from archgrad.errors import SpaceError
from archgrad.nested import tensors_in

__all__ = ["copied"]

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def copied(module: AnyModule) -> AnyModule:
    """Return a deep copy of a module.

    A tensor that was computed from others, such as an activation that a module keeps or the weight that
    `torch.nn.utils.weight_norm` computes anew in each pass, is copied as a constant.

    Raises:
        SpaceError: A part of it cannot be copied.
    """
    computed = {
        id(tensor): tensor.detach().clone()
        for part in module.modules()
        for tensor in tensors_in(vars(part))
        if not tensor.is_leaf
    }
    try:
        made = copy.deepcopy(module, computed)  # what stands in the memo counts as copied already
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
