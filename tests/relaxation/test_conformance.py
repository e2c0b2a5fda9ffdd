"""What every relaxation must keep to. A new relaxation is one more line in RELAXATIONS."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import archgrad as ag
from archgrad.choices import AlphaRow, Mixture
from archgrad.relaxation import Gumbel, Relaxation, Softmax
from toys import TabularSpace, Times, relaxed, vector

RELAXATIONS: dict[str, Callable[[], Relaxation]] = {
    "softmax": Softmax,
    "gumbel": Gumbel,
    "gumbel, cold": lambda: Gumbel(temperature_max=0.1),
    "gumbel, gradient through the softmax alone": lambda: Gumbel(constant_gradient=False),
}

SHAPES = [(1, 1), (2, 1), (8, 1), (2, 2), (5, 2), (5, 4), (5, 5)]
"""(candidates, chosen)."""
EXTREMES = [1e3, -1e3, 1e4, -1e4]


def row(n: int, k: int) -> AlphaRow:
    return AlphaRow(tuple(str(i) for i in range(n)), k)


def random_alphas(n: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    alpha = torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return alpha.to(dtype).requires_grad_()


class Mixed(nn.Module):
    """A cell beside nested choices: every kind of choice that a supernet may hold."""

    def __init__(self) -> None:
        super().__init__()
        self.table = TabularSpace()
        self.cell = ag.Cell(2, {"none": lambda s, n: Times(0.0), "one": lambda s, n: Times(1.0)}, label="cell")

    def forward(self, x: Tensor) -> Tensor:
        logits = self.table(x)[..., None, None]
        return self.cell([logits, 2.0 * logits]).flatten(1)


@pytest.mark.parametrize("name", RELAXATIONS)
class TestEveryRelaxation:
    @pytest.fixture
    def relaxation(self, name: str) -> Relaxation:
        return RELAXATIONS[name]()

    @staticmethod
    def mixture(relaxation: Relaxation, alpha: Tensor, k: int, seed: int = 0) -> Mixture:
        entry = row(len(alpha), k)
        return relaxation.mix(alpha, entry, relaxation.draw(entry, torch.Generator().manual_seed(seed)))

    @pytest.mark.parametrize(("n", "k"), SHAPES)
    def test_every_chosen_place_has_weights_that_sum_to_one(self, relaxation: Relaxation, n: int, k: int) -> None:
        for seed in range(5):
            mixture = self.mixture(relaxation, random_alphas(n, seed=seed), k, seed)
            assert mixture.slots.shape == (k, n)
            assert bool((mixture.slots >= 0).all())
            assert torch.allclose(mixture.slots.sum(1), torch.ones(k, dtype=torch.float64), rtol=1e-12)
            assert mixture.weights.shape == (n,)
            assert mixture.weights.sum().item() == pytest.approx(k, rel=1e-12)
            assert bool((mixture.weights <= 1.0 + 1e-12).all())  # no candidate is chosen twice

    @pytest.mark.parametrize(("n", "k"), SHAPES)
    def test_places_are_in_the_order_of_the_candidates(self, relaxation: Relaxation, n: int, k: int) -> None:
        # the j-th chosen of n has at least j candidates before it and k - 1 - j after it
        slots = self.mixture(relaxation, random_alphas(n), k).slots
        for j in range(k):
            assert bool((slots[j, :j] == 0).all())
            assert bool((slots[j, n - (k - 1 - j) :] == 0).all())

    @pytest.mark.parametrize(("n", "k"), SHAPES)
    def test_candidates_that_do_not_run_have_weight_zero(self, relaxation: Relaxation, n: int, k: int) -> None:
        for seed in range(5):
            mixture = self.mixture(relaxation, random_alphas(n, seed=seed), k, seed)
            assert list(mixture.active) == sorted(set(mixture.active))
            assert k <= len(mixture.active) <= n
            inactive = [i for i in range(n) if i not in mixture.active]
            assert bool((mixture.slots[:, inactive] == 0.0).all())

    @pytest.mark.parametrize(("n", "k"), [(n, k) for n, k in SHAPES if k < n])
    def test_the_gradient_reaches_every_alpha(self, relaxation: Relaxation, n: int, k: int) -> None:
        alpha = random_alphas(n)
        values = torch.randn(n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        (gradient,) = torch.autograd.grad((self.mixture(relaxation, alpha, k).weights * values).sum(), [alpha])
        assert bool((gradient != 0).all())

    @pytest.mark.parametrize(("n", "k"), SHAPES)
    def test_equal_generators_give_equal_mixtures_and_global_randomness_stays(
        self, relaxation: Relaxation, n: int, k: int
    ) -> None:
        before = torch.get_rng_state()
        alpha = random_alphas(n)
        first, second = (self.mixture(relaxation, alpha, k, seed=3) for _ in range(2))
        assert torch.equal(first.slots, second.slots)
        assert first.active == second.active
        assert torch.equal(torch.get_rng_state(), before)

    def test_a_draw_may_be_used_again(self, relaxation: Relaxation) -> None:
        entry, alpha = row(6, 2), random_alphas(6)
        noise = relaxation.draw(entry, torch.Generator().manual_seed(0))
        assert torch.equal(relaxation.mix(alpha, entry, noise).slots, relaxation.mix(alpha, entry, noise).slots)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    @pytest.mark.parametrize(("n", "k"), SHAPES)
    def test_weights_have_the_dtype_of_the_alphas(
        self, relaxation: Relaxation, n: int, k: int, dtype: torch.dtype
    ) -> None:
        alpha = random_alphas(n, dtype)
        mixture = self.mixture(relaxation, alpha, k)
        assert mixture.slots.dtype == mixture.weights.dtype == dtype
        assert relaxation.probabilities(alpha, row(n, k)).dtype == dtype
        exact = self.mixture(relaxation, random_alphas(n), k)
        assert torch.allclose(mixture.weights.double(), exact.weights, atol=1e-5)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    @pytest.mark.parametrize(("n", "k"), SHAPES)
    def test_extreme_alphas_give_finite_weights_and_gradients(
        self, relaxation: Relaxation, n: int, k: int, dtype: torch.dtype
    ) -> None:
        for shift in range(len(EXTREMES)):
            values = [EXTREMES[(i + shift) % len(EXTREMES)] for i in range(n)]
            alpha = torch.tensor(values, dtype=dtype, requires_grad=True)
            mixture = self.mixture(relaxation, alpha, k)
            assert torch.allclose(mixture.slots.sum(1), torch.ones(k, dtype=dtype), rtol=1e-5)
            (gradient,) = torch.autograd.grad((mixture.weights * torch.arange(n, dtype=dtype)).sum(), [alpha])
            assert bool(torch.isfinite(gradient).all())
            probabilities = relaxation.probabilities(alpha, row(n, k))
            assert probabilities.sum().item() == pytest.approx(k, rel=1e-5)

    @pytest.mark.parametrize(("n", "k"), SHAPES)
    def test_probabilities_sum_to_the_number_of_chosen_and_rank_as_the_alphas_do(
        self, relaxation: Relaxation, n: int, k: int
    ) -> None:
        alpha = random_alphas(n)
        probabilities = relaxation.probabilities(alpha, row(n, k))
        assert bool(((probabilities >= 0) & (probabilities <= 1 + 1e-12)).all())
        assert probabilities.sum().item() == pytest.approx(k, rel=1e-12)
        if k < n:
            assert torch.equal(probabilities.argsort(), alpha.argsort())

    def test_derivation_is_deterministic_and_draws_nothing(self, relaxation: Relaxation) -> None:
        supernet = relaxed(Mixed(), relaxation=relaxation)
        before = supernet.generator.get_state()
        first, second = ag.discretize(supernet), ag.discretize(supernet)
        assert first.to_json() == second.to_json()
        assert torch.equal(supernet.generator.get_state(), before)

    def test_every_epoch_has_a_temperature_above_zero_or_none(self, relaxation: Relaxation) -> None:
        for epoch in range(4):
            relaxation.begin_epoch(epoch, 4)
            assert relaxation.temperature is None or relaxation.temperature > 0
            assert bool(torch.isfinite(self.mixture(relaxation, random_alphas(4), 2).slots).all())

    def test_it_drives_nested_choices_and_cells(self, relaxation: Relaxation) -> None:
        supernet = relaxed(Mixed(), relaxation=relaxation)
        x = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        seen: set[str] = set()
        for _ in range(30):
            output = supernet(x)
            assert output.shape == (5, 6)
            gradients = torch.autograd.grad(output.square().sum(), list(supernet.alphas.values()), allow_unused=True)
            for label, gradient in zip(supernet.alphas, gradients, strict=True):
                assert gradient is None or bool(torch.isfinite(gradient).all())
                if gradient is not None and bool((gradient != 0).all()):
                    seen.add(label)
        assert seen == set(supernet.alphas)

    def test_a_pass_can_be_repeated_with_its_draw(self, relaxation: Relaxation) -> None:
        supernet = relaxed(Mixed(), relaxation=relaxation)
        x = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        with supernet.same_draw():
            assert torch.equal(supernet(x), supernet(x))

    def test_equal_seeds_give_equal_passes(self, relaxation: Relaxation) -> None:
        x = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        torch.manual_seed(0)
        space = Mixed()
        first, second = (relaxed(space, relaxation=copy.deepcopy(relaxation), seed=5) for _ in range(2))
        for _ in range(3):
            assert torch.equal(first(x), second(x))

    def test_a_lone_candidate_runs_with_weight_one(self, relaxation: Relaxation) -> None:
        mixture = self.mixture(relaxation, vector(-3.0).requires_grad_(), 1)
        assert mixture.active == (0,)
        assert mixture.weights.item() == 1.0
