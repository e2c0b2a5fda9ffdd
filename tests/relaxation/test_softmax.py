"""Laws of the softmax relaxation, beyond those that every relaxation keeps."""

from __future__ import annotations

import math

import pytest
import torch

import archgrad as ag
from archgrad.choices import AlphaRow
from archgrad.relaxation import Softmax
from archgrad.relaxation.subsets import inclusion_probabilities, slot_probabilities
from archgrad.schedules import Progress
from toys import Times, relaxed, vector


def test_weights_are_the_softmax_and_every_candidate_is_active() -> None:
    alpha = vector(0.2, -1.0, 3.0)
    mixture = Softmax().mix(alpha, AlphaRow(("a", "b", "c")), {})
    assert torch.equal(mixture.weights, torch.softmax(alpha, 0))
    assert mixture.active == (0, 1, 2)


def test_every_candidate_runs_once_a_pass() -> None:
    supernet = relaxed(ag.LayerChoice([Times(1.0), Times(2.0), Times(3.0)], label="c"))
    supernet(vector(1.0))
    assert [candidate.calls for candidate in supernet.network.candidates] == [1, 1, 1]


def test_it_draws_no_random_numbers() -> None:
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert Softmax().draw(vector(0.0, 0.0), AlphaRow(("a", "b")), None, generator) == {}
    assert torch.equal(generator.get_state(), before)
    assert Softmax().temperature(Progress(0, 1)) is None


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_adding_a_constant_to_all_alphas_changes_nothing(k: int) -> None:
    alpha = vector(0.2, -1.0, 3.0, 0.5)
    assert torch.allclose(slot_probabilities(alpha, k), slot_probabilities(alpha + 17.0, k), rtol=1e-12)


def test_probability_of_two_of_three_by_hand() -> None:
    # alphas 0, log 2, log 3: subsets {0,1}: 2, {0,2}: 3, {1,2}: 6, together 11
    alpha = vector(0.0, math.log(2.0), math.log(3.0))
    assert torch.allclose(inclusion_probabilities(alpha, 2), vector(5.0, 8.0, 9.0) / 11.0, rtol=1e-14)
    expected = torch.stack([vector(5.0, 6.0, 0.0), vector(0.0, 2.0, 9.0)]) / 11.0
    assert torch.allclose(slot_probabilities(alpha, 2), expected, rtol=1e-14)


def test_all_of_n_has_probability_one_and_no_gradient() -> None:
    alpha = vector(0.3, -2.0, 5.0).requires_grad_()
    probabilities = inclusion_probabilities(alpha, 3)
    assert torch.allclose(probabilities, torch.ones(3, dtype=torch.float64), rtol=1e-14)
    (gradient,) = torch.autograd.grad((probabilities * vector(1.0, 2.0, 4.0)).sum(), [alpha])
    assert torch.allclose(gradient, torch.zeros(3, dtype=torch.float64), atol=1e-14)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_derivatives_of_the_probabilities_are_those_of_the_function(k: int) -> None:
    alpha = vector(0.3, -2.0, 1.5, 0.1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a: slot_probabilities(a, k), alpha)
    assert torch.autograd.gradgradcheck(lambda a: slot_probabilities(a, k), alpha)


def test_many_candidates_do_not_underflow() -> None:
    # 40 equal alphas of -200: exp(sum of 20 of them) is exp(-4000); each is in half of the subsets
    alpha = torch.full((40,), -200.0, dtype=torch.float32)
    assert torch.allclose(inclusion_probabilities(alpha, 20), torch.full((40,), 0.5), rtol=1e-2)
    exact = inclusion_probabilities(alpha.double(), 20)
    assert torch.allclose(exact, torch.full((40,), 0.5, dtype=torch.float64), rtol=1e-9)
