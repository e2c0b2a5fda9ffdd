"""Laws of the Gumbel relaxation (GDAS), beyond those that every relaxation keeps."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
import torch
from torch import Tensor

import archgrad as ag
from archgrad.choices import AlphaRow
from archgrad.errors import OptionError
from archgrad.relaxation import Gumbel
from archgrad.schedules import Progress
from toys import Times, relaxed, vector

FIRST = Progress(0, 2)
ALPHAS = (0.4, -0.6, 1.2, 0.0)
ROW = AlphaRow(("a", "b", "c", "d"))
CHI_SQUARE_999 = {3: 16.27, 5: 20.52}
"""Quantile 0.999 of the chi-square distribution, by degrees of freedom."""


def soft_sample(alpha: Tensor, noise: Tensor, temperature: float) -> Tensor:
    """softmax((log softmax(a) + g) / tau), written out."""
    return torch.softmax((torch.log_softmax(alpha, 0) + noise) / temperature, 0)


def chi_square(counts: Counter[tuple[int, ...]], expected: dict[tuple[int, ...], float]) -> float:
    total = sum(counts.values())
    return sum((counts[key] - total * p) ** 2 / (total * p) for key, p in expected.items())


def drawn(gumbel: Gumbel, alphas: tuple[float, ...], k: int, times: int) -> Counter[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(0)
    entry = AlphaRow(tuple(map(str, range(len(alphas)))), k)
    return Counter(
        gumbel.mix(vector(*alphas), entry, gumbel.draw(vector(*alphas), entry, FIRST, generator)).active
        for _ in range(times)
    )


def test_only_the_sampled_candidate_runs_and_its_output_comes_through_unchanged() -> None:
    supernet = relaxed(ag.LayerChoice([Times(f) for f in (2.0, 3.0, 5.0)], label="c"), relaxation=Gumbel())
    candidates = list(supernet.network.candidates)
    x = vector(0.1, 0.7)
    for passes in range(1, 21):
        before = [candidate.calls for candidate in candidates]
        y = supernet(x)
        ran = [k for k, candidate in enumerate(candidates) if candidate.calls > before[k]]
        assert len(ran) == 1
        assert torch.equal(y, candidates[ran[0]].factor * x)
        assert sum(candidate.calls for candidate in candidates) == passes
    assert all(candidate.calls > 0 for candidate in candidates)


def test_a_choice_inside_a_candidate_that_is_not_sampled_does_not_run() -> None:
    inner = ag.LayerChoice([Times(2.0), Times(3.0)], label="inner")
    supernet = relaxed(ag.LayerChoice([inner, Times(5.0)], label="outer"), {"outer": [-1e4, 1e4]}, relaxation=Gumbel())
    supernet(vector(1.0))
    assert [candidate.calls for candidate in supernet.network.candidates[0].candidates] == [0, 0]


def test_k_inputs_are_drawn_where_k_are_chosen() -> None:
    supernet = relaxed(ag.InputChoice(4, 2, "none", label="j"), relaxation=Gumbel())
    seen = set()
    for _ in range(50):
        first, second = supernet([vector(float(i)) for i in range(4)])
        seen.add((first.item(), second.item()))
    assert seen == {(float(i), float(j)) for i, j in itertools.combinations(range(4), 2)}


@pytest.mark.parametrize("temperature", [10.0, 0.5])
def test_the_gradient_is_that_of_the_soft_sample(temperature: float) -> None:
    gumbel = Gumbel(temperature_max=temperature)
    draw = gumbel.draw(vector(*ALPHAS), ROW, FIRST, torch.Generator().manual_seed(1))
    values = vector(2.0, -1.0, 0.5, 3.0)
    alpha = vector(*ALPHAS).requires_grad_()
    hard = gumbel.mix(alpha, ROW, draw).weights
    assert sorted(hard.tolist()) == [0.0, 0.0, 0.0, 1.0]
    (ours,) = torch.autograd.grad((hard * values).sum(), [alpha])
    (soft,) = torch.autograd.grad((soft_sample(alpha, draw["noise"], temperature) * values).sum(), [alpha])
    assert torch.allclose(ours, soft, rtol=1e-12)


@pytest.mark.parametrize("constant", [True, False])
def test_the_alphas_gradient_in_a_supernet_is_the_authors(constant: bool) -> None:
    # With the constant, the authors' output is h_k f_k(x) + sum of h_o over all o that did not run, where h is one-hot
    # in value and has the gradient of the soft sample; the variant without it is h_k f_k(x).
    factors = (2.0, 3.0, 5.0, 7.0)
    gumbel = Gumbel(temperature_max=2.0, constant_gradient=constant)
    choice = ag.LayerChoice([Times(f) for f in factors], label="c")
    x, probe = vector(0.3, -1.1, 2.0), vector(1.0, 0.5, -2.0)
    for seed in range(8):
        supernet = relaxed(choice, {"c": ALPHAS}, relaxation=gumbel, seed=seed)
        noise = gumbel.draw(vector(*ALPHAS), ROW, FIRST, supernet.generator.clone_state())["noise"]
        (supernet(x) * probe).sum().backward()

        alpha = vector(*ALPHAS).requires_grad_()
        soft = soft_sample(alpha, noise, 2.0)
        k = int(soft.argmax())
        h = torch.nn.functional.one_hot(torch.tensor(k), 4) - soft.detach() + soft
        y = h[k] * factors[k] * x
        if constant:
            y = y + sum(h[o] for o in range(4) if o != k)
        (expected,) = torch.autograd.grad((y * probe).sum(), [alpha])
        assert torch.allclose(supernet.alphas["c"].grad, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("temperature", [10.0, 0.1])
def test_candidates_are_drawn_as_often_as_the_softmax_says(temperature: float) -> None:
    counts = drawn(Gumbel(temperature_max=temperature), ALPHAS, 1, 2000)
    p = torch.softmax(vector(*ALPHAS), 0).tolist()
    assert chi_square(counts, {(k,): p[k] for k in range(4)}) < CHI_SQUARE_999[3]


def test_pairs_are_drawn_one_after_the_other_without_replacement() -> None:
    # The k largest of log p + Gumbel noise are k draws without replacement: P{i, j} = p_i p_j/(1-p_i) + p_j p_i/(1-p_j)
    p = torch.softmax(vector(*ALPHAS), 0).tolist()
    expected = {
        (i, j): p[i] * p[j] / (1 - p[i]) + p[j] * p[i] / (1 - p[j]) for i, j in itertools.combinations(range(4), 2)
    }
    assert sum(expected.values()) == pytest.approx(1.0)
    assert chi_square(drawn(Gumbel(), ALPHAS, 2, 2000), expected) < CHI_SQUARE_999[5]


def test_noise_is_standard_gumbel() -> None:
    # mean: Euler's constant; variance: pi^2 / 6
    generator = torch.Generator().manual_seed(0)
    wide = AlphaRow(tuple(map(str, range(20000))))
    noise = Gumbel().draw(torch.zeros(20000), wide, FIRST, generator)["noise"]
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.03)
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, rel=0.05)


def test_every_pass_draws_anew_and_same_draw_holds_one() -> None:
    supernet = relaxed(ag.LayerChoice([Times(float(f)) for f in range(50)], label="c"), relaxation=Gumbel())
    free = {supernet(vector(1.0)).item() for _ in range(8)}
    assert len(free) > 4
    with supernet.same_draw():
        held = {supernet(vector(1.0)).item() for _ in range(8)}
    assert len(held) == 1
    assert len({supernet(vector(1.0)).item() for _ in range(8)}) > 4


def test_the_temperature_falls_linearly_from_the_first_to_the_last_epoch() -> None:
    # tau_e = 10 - 9.9 e / (E - 1)
    generator = torch.Generator()
    draws = [Gumbel().draw(torch.zeros(4), ROW, Progress(epoch, 5), generator) for epoch in range(5)]
    assert [draw["temperature"].item() for draw in draws] == pytest.approx([10.0, 7.525, 5.05, 2.575, 0.1])
    assert [Gumbel().temperature(Progress(epoch, 5)) for epoch in range(5)] == pytest.approx(
        [10.0, 7.525, 5.05, 2.575, 0.1]
    )


def test_a_single_epoch_has_the_first_temperature() -> None:
    assert Gumbel(temperature_max=3.0).temperature(Progress(0, 1)) == 3.0


def test_the_temperature_scales_the_gradient_but_not_the_draw() -> None:
    # d softmax(z/tau) carries a factor 1/tau; argmax does not depend on tau
    entry, generator = AlphaRow(("a", "b")), torch.Generator().manual_seed(2)
    draw = dict(Gumbel().draw(vector(0.3, -0.3), entry, FIRST, generator))
    gradients = []
    for temperature in (1e4, 2e4):
        alpha = vector(0.3, -0.3).requires_grad_()
        mixture = Gumbel().mix(alpha, entry, {**draw, "temperature": vector(temperature)[0]})
        gradients.append(torch.autograd.grad(mixture.weights[0], [alpha])[0])
    assert torch.allclose(gradients[0], 2.0 * gradients[1], rtol=1e-6)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
@pytest.mark.parametrize("option", ["temperature_max", "temperature_min"])
def test_temperatures_must_be_above_zero(option: str, value: float) -> None:
    with pytest.raises(OptionError, match=f"{option} must be above 0, but got {option}="):
        Gumbel(**{option: value})


@pytest.mark.parametrize(("epoch", "epochs"), [(-1, 5), (5, 5), (0, 0)])
def test_an_epoch_outside_the_search_is_an_error(epoch: int, epochs: int) -> None:
    with pytest.raises(OptionError, match=f"epoch={epoch}, epochs={epochs}"):
        Progress(epoch, epochs)


def test_without_the_progress_a_falling_temperature_is_an_error_and_a_constant_one_is_not() -> None:
    supernet = relaxed(ag.LayerChoice([Times(2.0), Times(3.0)], label="c"), relaxation=Gumbel())
    supernet.progress = None
    with pytest.raises(OptionError, match=r"temperature of Gumbel changes with the epoch .*progress=Progress"):
        supernet(vector(1.0))
    constant = relaxed(
        ag.LayerChoice([Times(2.0), Times(3.0)], label="c"), relaxation=Gumbel(temperature_max=1.0, temperature_min=1.0)
    )
    constant.progress = None
    assert constant(vector(1.0)).item() in (2.0, 3.0)
