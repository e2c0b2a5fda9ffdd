"""Every pair of parts runs for two steps in small spaces, or is refused for a reason that stands here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import combinations, product

import pytest
import torch

import archgrad as ag
from archgrad.errors import OptionError, SpaceError
from archgrad.methods import Method
from archgrad.methods.tree import KINDS

from parts_of_methods import PARTS, SPACES, Part, method_of, unlisted_fields

REFUSED: dict[str, list[tuple[str, str]]] = {}
"""The beginning of a message -> the pairs that are refused with it, of parts, or of a part and a space.

Where none of the relaxations or of the alphas' optimizers goes with both parts of a pair, the pair itself is not here.
"""
_LISTED = {frozenset(pair): message for message, pairs in REFUSED.items() for pair in pairs}
_BY_KEY = {part.key: part for part in PARTS}
_FITTED = ("relaxation", "alphas_optimizer")
"""Kinds of parts of which another is taken where the default does not go with a part."""


def compatible(chosen: Sequence[Part], space: str) -> bool:
    """Whether no two of these, or of one and the space, are listed as refused, and Method takes all together."""
    if any(frozenset(pair) in _LISTED for pair in combinations([*(part.key for part in chosen), space], 2)):
        return False
    try:
        method_of(chosen)
    except OptionError:
        return False
    return True


def fitted(chosen: Sequence[Part], space: str) -> list[list[Part]]:
    """Return the ways to add a relaxation and an optimizer, where there is none, so that all go together."""
    kinds = [kind for kind in _FITTED if all(part.kind != kind for part in chosen)]
    ways = product(*([part for part in PARTS if part.kind == kind] for kind in kinds))
    return [[*chosen, *way] for way in ways if compatible([*chosen, *way], space)]


def are_of_one_place(one: Part, other: Part) -> bool:
    return one.kind == other.kind and not (one.kind in KINDS and KINDS[one.kind].several)


def pairs_in(chosen: Iterable[Part]) -> set[frozenset[str]]:
    return {frozenset((one.key, other.key)) for one, other in combinations(chosen, 2)}


@cache
def plan(space: str) -> tuple[tuple[Part, ...], ...]:
    """Return methods of many parts each that have every pair that can be had in them, greedily."""
    pairs = [pair for pair in combinations(PARTS, 2) if not are_of_one_place(*pair)]
    missing = {frozenset((one.key, other.key)): (one, other) for one, other in pairs if fitted((one, other), space)}
    methods = []
    while missing:
        chosen = fitted(next(iter(missing.values())), space)[0]
        for kind in [kind for kind in dict.fromkeys(part.kind for part in PARTS)]:
            ways = [part for part in PARTS if part.kind == kind and not any(are_of_one_place(part, c) for c in chosen)]
            ways = [part for part in ways if part not in chosen]
            gains = {part: sum(frozenset((part.key, c.key)) in missing for c in chosen) for part in ways}
            for part in sorted(ways, key=lambda part: -gains[part]):
                if gains[part] and compatible([*chosen, part], space):
                    chosen.append(part)
                    break
        for pair in pairs_in(chosen):
            missing.pop(pair, None)
        methods.append(tuple(chosen))
    return tuple(methods)


def search(method: Method, space: str) -> ag.SearchResult:
    build, data = SPACES[space]
    torch.manual_seed(0)
    return ag.search(build(), data(), method=method, epochs=2, batch_size=4, cutout=0, quiet=True, device="cpu")


def test_every_field_of_a_method_is_among_the_parts() -> None:
    assert not unlisted_fields()


@pytest.mark.parametrize(("space", "number"), [(space, k) for space in SPACES for k in range(len(plan(space)))])
def test_parts_run_together(space: str, number: int) -> None:
    chosen = plan(space)[number]
    result = search(method_of(chosen), space)
    for row in result.history:
        assert all(math.isfinite(value) for value in row.values() if isinstance(value, float)), (chosen, row)
    first = ag.Supernet(SPACES[space].build(), result.supernet.relaxation, seed=0)
    moved = [not torch.equal(alpha, result.supernet.alphas[label]) for label, alpha in first.alphas.items()]
    assert any(moved), chosen
    network = ag.derive(SPACES[space].build(), result.architecture)
    inputs = SPACES[space].data(2)
    inputs = inputs[0] if isinstance(inputs, tuple) else inputs.train.inputs[:2].float()
    assert bool(network(inputs).isfinite().all()), chosen


@pytest.mark.parametrize("pair", [pair for pairs in REFUSED.values() for pair in pairs], ids=" and ".join)
def test_refused_pairs_are_refused_and_say_why(pair: tuple[str, str]) -> None:
    assert all(key in _BY_KEY or key in SPACES for key in pair), "there is no such part any more"
    parts = [_BY_KEY[key] for key in pair if key in _BY_KEY]
    message = _LISTED.pop(frozenset(pair))
    try:
        for space in [key for key in pair if key in SPACES] or SPACES:
            assert refusal(parts, space).startswith(message)
            for way in fitted(parts, space):
                assert refusal(way, space), f"{way} goes together in {space}"
    finally:
        _LISTED[frozenset(pair)] = message


def refusal(chosen: Sequence[Part], space: str) -> str:
    """Return why a search with these parts is refused before its first step; empty if it is not."""
    try:
        search(method_of(chosen), space)
    except (OptionError, SpaceError) as error:
        return str(error)
    return ""
