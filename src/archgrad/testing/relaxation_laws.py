"""What every relaxation must keep to."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from archgrad.choices import AlphaRow, Mixture
from archgrad.discretize import discretize
from archgrad.errors import OptionError
from archgrad.relaxation import Relaxation
from archgrad.schedules import Progress
from archgrad.supernet import Supernet
from archgrad.testing.toy_spaces import MixedSpace, alphas_for

__all__ = ["NormalisedRelaxationLaws", "RelaxationLaws"]

SHAPES = [(1, 1), (2, 1), (8, 1), (2, 2), (5, 2), (5, 4), (5, 5)]
"""(candidates, chosen)."""
EXTREMES = [1e3, -1e3, 1e4, -1e4]
PROGRESS = Progress(1, 4)


class RelaxationLaws:
    """Inherit this in a class `Test...`, and let `make` return your relaxation, whose weights may sum to anything."""

    def make(self) -> Relaxation:
        """Return the relaxation."""
        raise NotImplementedError

    @pytest.fixture
    def relaxation(self) -> Relaxation:
        return self.make()

    @staticmethod
    def row(relaxation: Relaxation, n: int, k: int) -> AlphaRow:
        row = AlphaRow(tuple(str(i) for i in range(n)), k)
        try:
            relaxation.check({"row": row})
        except OptionError:
            pytest.skip(f"{relaxation} refuses rows of which {k} of {n} are chosen")
        return row

    @staticmethod
    def alpha(relaxation: Relaxation, row: AlphaRow, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
        return alphas_for(relaxation, {"row": row}, seed=seed)["row"].to(dtype).requires_grad_()

    @staticmethod
    def mixture(relaxation: Relaxation, alpha: Tensor, row: AlphaRow, seed: int = 0) -> Mixture:
        generator = torch.Generator().manual_seed(seed)
        return relaxation.mix(alpha, row, relaxation.draw(alpha.detach(), row, PROGRESS, generator))

    @staticmethod
    def supernet(relaxation: Relaxation, seed: int = 0) -> Supernet:
        torch.manual_seed(0)
        try:
            supernet = Supernet(MixedSpace(), relaxation, seed=seed).double()
        except OptionError:
            supernet = Supernet(MixedSpace(chosen=1), relaxation, seed=seed).double()
        supernet.progress = PROGRESS
        return supernet

    @pytest.mark.parametrize(("n", "k"), SHAPES)
    def test_candidates_that_do_not_run_have_weight_zero(self, relaxation: Relaxation, n: int, k: int) -> None:
        row = self.row(relaxation, n, k)
        for seed in range(5):
            mixture = self.mixture(relaxation, self.alpha(relaxation, row, seed), row, seed)
            assert mixture.slots.shape == (k, n)
            assert mixture.weights.shape == (n,)
            assert list(mixture.active) == sorted(set(mixture.active))
            assert k <= len(mixture.active) <= n
            assert relaxation.runs_all == (len(mixture.active) == n) or n == k
            inactive = [i for i in range(n) if i not in mixture.active]
            assert bool((mixture.slots[:, inactive] == 0.0).all())

    @pytest.mark.parametrize(("n", "k"), [(n, k) for n, k in SHAPES if k < n])
    def test_the_gradient_reaches_every_alpha(self, relaxation: Relaxation, n: int, k: int) -> None:
        row = self.row(relaxation, n, k)
        alpha = self.alpha(relaxation, row)
        values = torch.randn(n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        (gradient,) = torch.autograd.grad((self.mixture(relaxation, alpha, row).weights * values).sum(), [alpha])
        assert bool((gradient != 0).all())

    @pytest.mark.parametrize(("n", "k"), SHAPES)
    def test_equal_generators_give_equal_mixtures_and_global_randomness_stays(
        self, relaxation: Relaxation, n: int, k: int
    ) -> None:
        row = self.row(relaxation, n, k)
        before = torch.get_rng_state()
        alpha = self.alpha(relaxation, row)
        first, second = (self.mixture(relaxation, alpha, row, seed=3) for _ in range(2))
        assert torch.equal(first.slots, second.slots)
        assert first.active == second.active
        assert torch.equal(torch.get_rng_state(), before)

    def test_a_draw_holds_tensors_and_may_be_used_again(self, relaxation: Relaxation) -> None:
        row = self.row(relaxation, 6, 1)
        alpha = self.alpha(relaxation, row)
        draw = relaxation.draw(alpha.detach(), row, PROGRESS, torch.Generator().manual_seed(0))
        assert all(isinstance(value, Tensor) and not value.requires_grad for value in draw.values())
        assert torch.equal(relaxation.mix(alpha, row, draw).slots, relaxation.mix(alpha, row, draw).slots)

    def test_nothing_is_kept_between_epochs(self, relaxation: Relaxation) -> None:
        row = self.row(relaxation, 4, 1)
        alpha = self.alpha(relaxation, row)

        def slots(epoch: int) -> Tensor:
            generator = torch.Generator().manual_seed(0)
            return relaxation.mix(alpha, row, relaxation.draw(alpha.detach(), row, Progress(epoch, 4), generator)).slots

        first = slots(0)
        slots(3)
        assert torch.equal(slots(0), first)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    @pytest.mark.parametrize(("n", "k"), SHAPES)
    def test_weights_have_the_dtype_of_the_alphas(
        self, relaxation: Relaxation, n: int, k: int, dtype: torch.dtype
    ) -> None:
        row = self.row(relaxation, n, k)
        alpha = self.alpha(relaxation, row, dtype=dtype)
        mixture = self.mixture(relaxation, alpha, row)
        assert mixture.slots.dtype == mixture.weights.dtype == dtype
        assert relaxation.probabilities(alpha, row).dtype == dtype
        exact = self.mixture(relaxation, self.alpha(relaxation, row), row)
        assert torch.allclose(mixture.weights.double(), exact.weights, atol=1e-5)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    @pytest.mark.parametrize(("n", "k"), SHAPES)
    def test_extreme_alphas_give_finite_weights_and_gradients(
        self, relaxation: Relaxation, n: int, k: int, dtype: torch.dtype
    ) -> None:
        row = self.row(relaxation, n, k)
        for shift in range(len(EXTREMES)):
            values = torch.tensor([EXTREMES[(i + shift) % len(EXTREMES)] for i in range(n)], dtype=dtype)
            alpha = (torch.softmax(values, 0) if relaxation.domain == "simplex" else values).requires_grad_()
            mixture = self.mixture(relaxation, alpha, row)
            assert bool(mixture.slots.isfinite().all())
            (gradient,) = torch.autograd.grad((mixture.weights * torch.arange(n, dtype=dtype)).sum(), [alpha])
            assert bool(gradient.isfinite().all())
            assert bool(relaxation.probabilities(alpha, row).isfinite().all())

    @pytest.mark.parametrize(("n", "k"), SHAPES)
    def test_probabilities_lie_between_0_and_1_and_rank_as_the_alphas_do(
        self, relaxation: Relaxation, n: int, k: int
    ) -> None:
        row = self.row(relaxation, n, k)
        alpha = self.alpha(relaxation, row)
        probabilities = relaxation.probabilities(alpha, row)
        assert bool(((probabilities >= 0) & (probabilities <= 1 + 1e-12)).all())
        if k < n:
            assert torch.equal(probabilities.argsort(), alpha.argsort())

    @pytest.mark.parametrize(("n", "k"), [(n, k) for n, k in SHAPES if k < n])
    def test_the_expected_weights_are_differentiable(self, relaxation: Relaxation, n: int, k: int) -> None:
        row = self.row(relaxation, n, k)
        alpha = self.alpha(relaxation, row)
        values = torch.randn(n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        (gradient,) = torch.autograd.grad((relaxation.expected(alpha, row) * values).sum(), [alpha])
        assert bool((gradient.isfinite() & (gradient != 0)).all())

    def test_first_alphas_prefer_none_by_much(self, relaxation: Relaxation) -> None:
        row = self.row(relaxation, 5, 1)
        alpha = relaxation.initial(row, torch.Generator().manual_seed(0))
        assert alpha.shape == (5,)
        assert alpha.dtype == torch.float64
        probabilities = relaxation.probabilities(alpha, row)
        assert float(probabilities.max() - probabilities.min()) < 0.05

    def test_derivation_is_deterministic_and_draws_nothing(self, relaxation: Relaxation) -> None:
        supernet = self.supernet(relaxation)
        before = supernet.generator.get_state()
        first, second = discretize(supernet), discretize(supernet)
        assert first.to_json() == second.to_json()
        assert torch.equal(supernet.generator.get_state(), before)

    def test_every_epoch_has_a_temperature_above_zero_or_none(self, relaxation: Relaxation) -> None:
        for epoch in range(4):
            temperature = relaxation.temperature(Progress(epoch, 4))
            assert temperature is None or temperature > 0

    def test_it_drives_nested_choices_and_cells(self, relaxation: Relaxation) -> None:
        supernet = self.supernet(relaxation)
        x = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        seen: set[str] = set()
        for _ in range(30):
            output = supernet(x)
            assert output.shape == (5, 6)
            gradients = torch.autograd.grad(output.square().sum(), list(supernet.alphas.values()), allow_unused=True)
            for label, gradient in zip(supernet.alphas, gradients, strict=True):
                assert gradient is None or bool(gradient.isfinite().all())
                if gradient is not None and bool((gradient != 0).any()):
                    seen.add(label)
        assert seen == set(supernet.alphas)

    def test_a_pass_can_be_repeated_with_its_draw(self, relaxation: Relaxation) -> None:
        supernet = self.supernet(relaxation)
        x = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        with supernet.same_draw():
            assert torch.equal(supernet(x), supernet(x))

    def test_equal_seeds_give_equal_passes(self, relaxation: Relaxation) -> None:
        x = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        first, second = (self.supernet(relaxation, seed=5) for _ in range(2))
        for _ in range(3):
            assert torch.equal(first(x), second(x))

    def test_pruned_candidates_neither_run_nor_are_chosen(self, relaxation: Relaxation) -> None:
        if relaxation.domain == "simplex":
            pytest.skip("rows on the simplex are not pruned")
        supernet = self.supernet(relaxation)
        supernet.prune(1, supernet.probabilities())
        x = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        best = {label: max(range(len(row)), key=lambda k: row[k]) for label, row in supernet.probabilities().items()}
        for label, left in supernet.kept.items():
            assert best[label] in left
            for k, p in enumerate(supernet.probabilities()[label]):
                assert (p > 0) == (k in left)
        assert bool(supernet(x).isfinite().all())


class NormalisedRelaxationLaws(RelaxationLaws):
    """The laws of relaxations whose weights sum to one in each chosen place."""

    def test_it_says_that_it_is_normalised(self, relaxation: Relaxation) -> None:
        assert relaxation.normalised

    @pytest.mark.parametrize(("n", "k"), SHAPES)
    def test_every_chosen_place_has_weights_that_sum_to_one(self, relaxation: Relaxation, n: int, k: int) -> None:
        row = self.row(relaxation, n, k)
        for seed in range(5):
            mixture = self.mixture(relaxation, self.alpha(relaxation, row, seed), row, seed)
            assert bool((mixture.slots >= 0).all())
            assert torch.allclose(mixture.slots.sum(1), torch.ones(k, dtype=torch.float64), rtol=1e-12)
            assert mixture.weights.sum().item() == pytest.approx(k, rel=1e-12)
            assert bool((mixture.weights <= 1.0 + 1e-12).all())  # no candidate is chosen twice

    @pytest.mark.parametrize(("n", "k"), SHAPES)
    def test_places_are_in_the_order_of_the_candidates(self, relaxation: Relaxation, n: int, k: int) -> None:
        # the j-th chosen of n has at least j candidates before it and k - 1 - j after it
        row = self.row(relaxation, n, k)
        slots = self.mixture(relaxation, self.alpha(relaxation, row), row).slots
        for j in range(k):
            assert bool((slots[j, :j] == 0).all())
            assert bool((slots[j, n - (k - 1 - j) :] == 0).all())

    @pytest.mark.parametrize(("n", "k"), SHAPES)
    def test_probabilities_sum_to_the_number_of_chosen(self, relaxation: Relaxation, n: int, k: int) -> None:
        row = self.row(relaxation, n, k)
        assert relaxation.probabilities(self.alpha(relaxation, row), row).sum().item() == pytest.approx(k, rel=1e-12)

    def test_a_lone_candidate_runs_with_weight_one(self, relaxation: Relaxation) -> None:
        row = self.row(relaxation, 1, 1)
        mixture = self.mixture(relaxation, self.alpha(relaxation, row), row)
        assert mixture.active == (0,)
        assert mixture.weights.item() == pytest.approx(1.0, rel=1e-15)
