"""Every pair of parts runs for two epochs in small spaces, or is refused for a reason that stands here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import combinations, product

import pytest
import torch

import archgrad as ag
from archgrad.errors import OptionError, SpaceError
from archgrad.methods import Method
from archgrad.methods.tree import KINDS
from archgrad.search import stage_builder
from parts_of_methods import PARTS, SPACES, Part, method_of, unlisted_fields


def _each(*keys: str, of: str) -> list[tuple[str, str]]:
    return [(key, of) for key in keys]


def _with_all_but(key: str, *others: str) -> list[tuple[str, str]]:
    """Return the pairs of a part with all of a kind but some."""
    kind = others[0].split()[0]
    return [(key, part.key) for part in PARTS if part.kind == kind and part.key not in others]


REFUSED: dict[str, list[tuple[str, str]]] = {
    "Simplex has alphas on the simplex, but Adam moves them anywhere": [
        (kind, "alphas_optimizer adam") for kind in ("relaxation simplex", "edge_weights simplex")
    ],
    "{1} needs alphas that are free to grow, but ExponentiatedGradient keeps": [
        *_with_all_but("alphas_optimizer exponentiated-gradient", "relaxation simplex"),
        *_with_all_but("alphas_optimizer exponentiated-gradient", "edge_weights simplex", "edge_weights gumbel"),
    ],
    "Edge weights weigh the edges that enter a node of a Cell": [
        *((part.key, "table") for part in PARTS if part.kind == "edge_weights"),
        *_with_all_but("table of two", "edge_weights simplex"),
    ],
    "Edge weights are for all edges of a node at once": _each("cells", "nasbench201", of="edge_weights gumbel"),
    "Simplex has alphas on the simplex, where rows that lose candidates": [("relaxation simplex", "stages keep")],
    "{0} moves the weights of all candidates on the simplex, but {1} draws": _each(
        "perturbation uniform", "perturbation adversarial", of="relaxation gumbel"
    ),
    "{0} moves the weights of all candidates on the simplex, but Sigmoid has weights": _each(
        "perturbation uniform", "perturbation adversarial", of="relaxation sigmoid"
    ),
    "{0} changes the weights' pass, but {1} looks ahead": [
        (part.key, step.key)
        for part in PARTS
        for step in PARTS
        if part.kind in ("perturbation", "weights_rules") and step.key in ("step unrolled", "step implicit")
    ],
    "FreezeOperations compares the weights' gradient with that of the alphas' pass before it": _each(
        "step flat", "weights_first true", of="weights_rules freeze-operations"
    ),
    "LayerAlignment compares layers by the gradients of all candidates": [
        ("weights_rules layer-alignment", "relaxation gumbel")
    ],
    "LayerAlignment compares choices that share a label": _each(
        "table", "table of two", of="weights_rules layer-alignment"
    ),
    "PerturbationBased measures what a mixture does without one of its candidates, but {1} runs": [
        ("selection perturbation-based", "relaxation gumbel")
    ],
    "PerturbationBased gives the candidate that is kept the mixing weight one": _each(
        "relaxation simplex", "relaxation sigmoid", of="selection perturbation-based"
    ),
    "PerturbationBased settles choices after the last epoch": _each(
        *(f"stopping {name}" for name in ("epoch-limit", "hessian-eigenvalue", "skip-count")),
        of="selection perturbation-based",
    ),
    "OneShot settles choices after the last epoch": _each(
        *(f"stopping {name}" for name in ("epoch-limit", "hessian-eigenvalue", "skip-count")), of="selection one-shot"
    ),
    "DirichletKL is a distance of Dirichlet distributions, but {1} has none": _with_all_but(
        "regularizers dirichlet-kl", "relaxation dirichlet"
    ),
    "BetaDecay is a function of logits": [("regularizers beta-decay", "relaxation simplex")],
    "Entropy is that of mixing weights that sum to one": [("regularizers entropy", "relaxation sigmoid")],
    "ZeroOne opens or shuts gates": _with_all_but("regularizers zero-one", "relaxation sigmoid"),
    "Dirichlet has weights that sum to one, for one": [("relaxation dirichlet", "table of two")],
    "ReinMax draws one candidate of each row": [("relaxation rein-max", "table of two")],
    "Sigmoid has one gate a candidate": [("relaxation sigmoid", "table of two")],
    "Simplex mixes one candidate of each row": [("relaxation simplex", "table of two")],
}
"""The beginning of a message -> the pairs that are refused with it, of parts, or of a part and a space. In the message
{0} and {1} are the classes of the two.

Where none of the relaxations or of the alphas' optimizers goes with both parts of a pair, the pair itself is not here.
"""
_LISTED = {frozenset(pair): message for message, pairs in REFUSED.items() for pair in pairs}
_BY_KEY = {part.key: part for part in PARTS}
_FITTED = ("relaxation", "alphas_optimizer")
"""Kinds of parts of which another is taken where the default does not go with a part."""


def listed(chosen: Sequence[Part], space: str) -> bool:
    """Whether two of these, or one and the space, are listed as refused."""
    return any(frozenset(pair) in _LISTED for pair in combinations([*(part.key for part in chosen), space], 2))


@cache
def no_method(chosen: tuple[Part, ...]) -> str:
    """Return why no method can be made of these; empty if one can."""
    try:
        method_of(chosen)
    except OptionError as error:
        return str(error)
    return ""


def taken(chosen: Sequence[Part]) -> bool:
    """Whether a method can be made of these."""
    return not no_method(tuple(chosen))


def ways(chosen: Sequence[Part], space: str) -> Iterator[list[Part]]:
    """Yield the ways to add a relaxation and an optimizer, where there is none, without a pair that is listed."""
    kinds = [kind for kind in _FITTED if all(part.kind != kind for part in chosen)]
    for way in product(*([part for part in PARTS if part.kind == kind] for kind in kinds)):
        if not listed([*chosen, *way], space):
            yield [*chosen, *way]


@cache
def fitted(chosen: tuple[Part, ...], space: str) -> list[Part] | None:
    """Return the first of the ways that a method can be made of, if there is one."""
    return next((way for way in ways(chosen, space) if taken(way)), None)


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
        chosen = list(fitted(next(iter(missing.values())), space) or ())
        while True:
            gains = {
                part: sum(frozenset((part.key, other.key)) in missing for other in chosen)
                for part in PARTS
                if not any(are_of_one_place(part, other) or part.key == other.key for other in chosen)
            }
            for part in sorted(gains, key=lambda part: -gains[part]):
                if gains[part] and not listed([*chosen, part], space) and taken([*chosen, part]):
                    chosen.append(part)
                    break
            else:
                break
        for pair in pairs_in(chosen):
            missing.pop(pair, None)
        methods.append(tuple(chosen))
    return tuple(methods)


_COSTS: dict[tuple[str, str], ag.ExpectedCost] = {}


def cost_of(supernet: ag.Supernet, sample: torch.Tensor, cost: str) -> ag.ExpectedCost:
    """Work out what a space costs once for all methods."""
    key = (cost, str(supernet.network))
    if key not in _COSTS:
        _COSTS[key] = ag.ExpectedCost(supernet, sample, cost)
    return _COSTS[key]


@pytest.fixture(autouse=True)
def costs_are_worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_builder, "ExpectedCost", cost_of)


def search(method: Method, space: str) -> ag.SearchResult:
    build, data = SPACES[space]
    torch.manual_seed(0)
    return ag.search(build, data(), method=method, epochs=2, batch_size=4, cutout=0, quiet=True, device="cpu")


def test_every_field_of_a_method_is_among_the_parts() -> None:
    assert not unlisted_fields()


def with_every_part(space: str) -> Iterator[int]:
    """Yield the numbers of as many of the methods as it takes to have every part."""
    seen = set[Part]()
    for number, chosen in enumerate(plan(space)):
        if not seen.issuperset(chosen):
            yield number
            seen.update(chosen)


RUN = [
    *((space, k) for space in SPACES if space != "nasbench201" for k in range(len(plan(space)))),
    *(("nasbench201", number) for number in with_every_part("nasbench201")),
]
"""Pairs of parts run in cells and in tables; in cells of NAS-Bench-201 every part runs at least once."""


@pytest.mark.parametrize(("space", "number"), RUN)
def test_parts_run_together(space: str, number: int) -> None:
    chosen = plan(space)[number]
    result = search(method_of(chosen), space)
    for row in result.history:
        assert all(math.isfinite(value) for value in row.values() if isinstance(value, float)), (chosen, row)
    assert result.history[-1]["alphas_gradient_norm"] is not None, chosen
    assert result.history[-1]["weights_gradient_norm"] > 0.0, chosen


@pytest.mark.parametrize("space", SPACES)
def test_no_pair_is_refused_that_is_not_listed(space: str) -> None:
    pairs = [pair for pair in combinations(PARTS, 2) if not are_of_one_place(*pair)]
    unlisted = [pair for pair in pairs if any(ways(pair, space)) and not fitted(pair, space)]
    assert not unlisted, "\n".join(f"{one.key} and {other.key}" for one, other in unlisted)


@pytest.mark.parametrize("pair", [pair for pairs in REFUSED.values() for pair in pairs], ids=" and ".join)
def test_refused_pairs_are_refused_and_say_why(pair: tuple[str, str]) -> None:
    assert all(key in _BY_KEY or key in SPACES for key in pair), "there is no such part any more"
    parts = [_BY_KEY[key] for key in pair if key in _BY_KEY]
    message = _LISTED.pop(frozenset(pair))
    try:
        reasons = {
            f"{way} in {space}": refusal(way, space)
            for space in [key for key in pair if key in SPACES] or SPACES
            for way in ways(parts, space)
        }
        assert reasons, "no relaxation or optimizer goes with both, so that the pair need not be listed"
        assert all(reasons.values()), [way for way, reason in reasons.items() if not reason]
        said = message.format(*(type(part.value).__name__ for part in parts))
        assert any(reason.startswith(said) for reason in reasons.values()), reasons
    finally:
        _LISTED[frozenset(pair)] = message


def refusal(chosen: Sequence[Part], space: str) -> str:
    """Return why a search with these parts is refused before its first step; empty if it is not."""
    if reason := no_method(tuple(chosen)):
        return reason
    try:
        search(method_of(chosen), space)
    except (OptionError, SpaceError) as error:
        return str(error)
    return ""
