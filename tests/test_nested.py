"""Structures of tensors: whatever may stand in a batch or an output is walked in one way."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from archgrad.batches import count, cut, prepare, uncut
from archgrad.data.batch_readers import to_device
from archgrad.nested import joined, map_tensors, tensors_in


class Pair(NamedTuple):
    image: Tensor
    extra: Any


def batch() -> Any:
    return {
        "pair": Pair(torch.arange(6.0), [torch.arange(6), ("text", None)]),
        "more": (torch.ones(6, 2, dtype=torch.float64), 3),
    }


def alike(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b) and a.dtype == b.dtype
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(alike(a[key], b[key]) for key in a)
    if isinstance(a, tuple | list):
        return type(a) is type(b) and len(a) == len(b) and all(map(alike, a, b))
    return bool(a == b)


def test_walking_keeps_structure_types_and_what_is_no_tensor() -> None:
    assert alike(map_tensors(batch(), lambda x: x), batch())
    assert alike(joined([batch(), batch()], lambda tensors: tensors[1]), batch())
    assert [x.dtype for x in tensors_in(batch())] == [torch.float32, torch.int64, torch.float64]
    assert alike(to_device(batch(), torch.device("cpu")), batch())


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_a_batch_with_named_tuples_is_cast_cut_and_joined(parts: int) -> None:
    assert count(batch()) == 6
    cast = prepare(batch(), dtype=torch.float64, channels_last=True)
    assert type(cast["pair"]) is Pair
    assert cast["pair"].image.dtype == torch.float64
    assert cast["pair"].extra[0].dtype == torch.int64
    pieces = [piece for piece, _ in cut(batch(), torch.arange(6), parts)]
    assert len(pieces) == parts
    assert alike(uncut(pieces), batch())
