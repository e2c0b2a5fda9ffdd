"""What candidates may return: tensors or equal structures of tensors, of equal shapes; all else is named."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import archgrad as ag
from archgrad.errors import SpaceError
from toys import relaxed, vector


class Pair(NamedTuple):
    output: Tensor
    state: Tensor


@dataclass
class Output:
    logits: Tensor


class Returns(nn.Module):
    """Returns what a function makes of the input."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def mixed(*functions: Any) -> Any:
    """What equal weights make of two candidates at x = (1, 2)."""
    supernet = relaxed(
        ag.LayerChoice({"a": Returns(functions[0]), "b": Returns(functions[1])}, label="c"), {"c": [0.0, 0.0]}
    )
    return supernet(vector(1.0, 2.0))


def test_tuples_are_mixed_part_by_part() -> None:
    y = mixed(lambda x: (x, 2 * x), lambda x: (3 * x, 6 * x))
    assert isinstance(y, tuple)
    assert torch.equal(y[0], vector(2.0, 4.0))
    assert torch.equal(y[1], vector(4.0, 8.0))


def test_namedtuples_stay_namedtuples() -> None:
    y = mixed(lambda x: Pair(x, x.sum()), lambda x: Pair(3 * x, -x.sum()))
    assert isinstance(y, Pair)
    assert torch.equal(y.output, vector(2.0, 4.0))
    assert y.state == 0.0


def test_dicts_are_mixed_key_by_key_whatever_their_order() -> None:
    y = mixed(lambda x: {"h": x, "c": -x}, lambda x: OrderedDict(c=3 * x, h=x))
    assert torch.equal(y["h"], vector(1.0, 2.0))
    assert torch.equal(y["c"], vector(1.0, 2.0))


def test_structures_nest() -> None:
    y = mixed(lambda x: [x, {"a": (x,)}], lambda x: [x, {"a": (3 * x,)}])
    assert torch.equal(y[1]["a"][0], vector(2.0, 4.0))


def test_equal_constants_beside_tensors_pass_through() -> None:
    assert mixed(lambda x: (x, None, 3), lambda x: (x, None, 3))[1:] == (None, 3)


def test_the_gradient_goes_through_every_part() -> None:
    supernet = relaxed(
        ag.LayerChoice([Returns(lambda x: {"a": x, "b": x}), Returns(lambda x: {"a": 2 * x, "b": 5 * x})], label="c"),
        {"c": [0.0, 0.0]},
    )
    y = supernet(vector(1.0))
    (y["a"] + y["b"]).sum().backward()
    # d/da_2 = p2 ((2 + 5) - (1.5 + 3)) = 0.5 * 2.5
    assert torch.allclose(supernet.alphas["c"].grad, vector(-1.25, 1.25))


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (lambda x: x, lambda x: x[:1], r"'a' gives \(2,\) and 'b' gives \(1,\)"),
        (lambda x: x, lambda x: x.unsqueeze(0), r"'a' gives \(2,\) and 'b' gives \(1, 2\)"),
        (lambda x: (x, x), lambda x: (x,), "'a' gives a tuple of 2 and 'b' gives a tuple of 1"),
        (lambda x: (x, x), lambda x: [x, x], "'a' gives a tuple of 2 and 'b' gives a list of 2"),
        (lambda x: x, lambda x: (x,), r"'a' gives \(2,\) and 'b' gives a tuple of 1"),
        (lambda x: {"h": x}, lambda x: {"c": x}, r"'a' gives a dict of \('h',\) and 'b' gives a dict of \('c',\)"),
        (lambda x: (x, {"h": x}), lambda x: (x, {"h": x[:1]}), r"'a' gives \(2,\) and 'b' gives \(1,\)"),
        (lambda x: (x, 3), lambda x: (x, 4), "'a' gives a int of 3 and 'b' gives a int of 4"),
        (lambda x: x, lambda x: None, r"'a' gives \(2,\) and 'b' gives a NoneType"),
    ],
)
def test_unequal_outputs_are_an_error_that_names_choice_candidates_and_shapes(a: Any, b: Any, message: str) -> None:
    with pytest.raises(SpaceError, match=f"Choice 'c' needs candidates of equal output shape, but {message}"):
        mixed(a, b)


def test_a_shape_that_would_broadcast_is_unequal_all_the_same() -> None:
    with pytest.raises(SpaceError, match=r"\(2, 1\)"):
        mixed(lambda x: x.outer(x), lambda x: x.unsqueeze(1))


@pytest.mark.parametrize("relaxation", [ag.relaxation.Softmax(), ag.relaxation.Gumbel()])
def test_what_cannot_be_mixed_is_an_error_and_never_taken_from_the_first(relaxation: ag.relaxation.Relaxation) -> None:
    candidates = [Returns(lambda x: Output(x)), Returns(lambda x: Output(2 * x))]
    with pytest.raises(SpaceError, match=r"Choice 'c' can mix tensors, and tuples.*gives a Output"):
        relaxed(ag.LayerChoice(candidates, label="c"), relaxation=relaxation)(vector(1.0))


def test_the_third_candidate_is_compared_too() -> None:
    candidates = {"a": Returns(lambda x: x), "b": Returns(lambda x: x), "c": Returns(lambda x: x[:1])}
    with pytest.raises(SpaceError, match=r"'a' gives \(2,\) and 'c' gives \(1,\)"):
        relaxed(ag.LayerChoice(candidates, label="edge"))(vector(1.0, 2.0))
