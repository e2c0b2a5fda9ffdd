"""What regularisers, perturbations, rules of weights, optimizers of alphas and always-on candidates must keep to."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from archgrad.always_on import AlwaysOn
from archgrad.choices import AlphaRow, LayerChoice, Mixture
from archgrad.derive import derive
from archgrad.discretize import discretize
from archgrad.optimizers import AlphasOptimizer
from archgrad.perturbations import Perturbation
from archgrad.regularizers import Regularizer
from archgrad.relaxation import Relaxation, Softmax
from archgrad.schedules import Progress, Schedule, value_of
from archgrad.supernet import Supernet
from archgrad.testing.toy_spaces import alphas_for
from archgrad.weights_rules import WeightsPass, WeightsRule

__all__ = ["AlphasOptimizerLaws", "AlwaysOnLaws", "PerturbationLaws", "RegularizerLaws", "WeightsRuleLaws"]

ROWS = {
    "cell/0->1": AlphaRow(("none", "skip", "conv")),
    "cell/0->2": AlphaRow(("none", "skip", "conv")),
    "layer": AlphaRow(("a", "b", "c", "d")),
}
PROGRESS = Progress(1, 4)


class RegularizerLaws:
    """Inherit this in a class `Test...`, and let `make` return your regulariser."""

    def make(self) -> Regularizer:
        """Return the regulariser."""
        raise NotImplementedError

    def make_relaxation(self) -> Relaxation:
        """Return a relaxation that it goes with."""
        return Softmax()

    @pytest.fixture
    def part(self) -> Regularizer:
        return self.make()

    def test_its_gradient_is_that_of_finite_differences(self, part: Regularizer) -> None:
        relaxation, radius = self.make_relaxation(), 1e-6
        alphas = {label: a.requires_grad_() for label, a in alphas_for(relaxation, ROWS).items()}
        part.check(ROWS, relaxation)
        value = part.value(alphas, ROWS, relaxation)
        assert value.shape == ()
        assert bool(value.isfinite())
        gradients = torch.autograd.grad(value, list(alphas.values()), allow_unused=True, materialize_grads=True)
        for label, gradient in zip(alphas, gradients, strict=True):
            for k in range(len(gradient)):
                sides = []
                for sign in (1.0, -1.0):
                    moved = {other: a.detach().clone() for other, a in alphas.items()}
                    moved[label][k] += sign * radius
                    sides.append(float(part.value(moved, ROWS, relaxation)))
                slope = (sides[0] - sides[1]) / (2.0 * radius)
                assert float(gradient[k]) == pytest.approx(slope, rel=1e-5, abs=1e-8), (label, k)

    def test_it_draws_nothing_and_leaves_the_alphas(self, part: Regularizer) -> None:
        relaxation, state = self.make_relaxation(), torch.get_rng_state()
        alphas = alphas_for(relaxation, ROWS)
        before = copy.deepcopy(alphas)
        assert torch.equal(part.value(alphas, ROWS, relaxation), part.value(alphas, ROWS, relaxation))
        assert all(torch.equal(alphas[label], before[label]) for label in alphas)
        assert torch.equal(torch.get_rng_state(), state)

    def test_its_weight_is_a_finite_number_in_every_epoch(self, part: Regularizer) -> None:
        for epoch in range(4):
            assert abs(value_of(part.weight, Progress(epoch, 4), "weight")) < float("inf")


class PerturbationLaws:
    """Inherit this in a class `Test...`, and let `make` return your perturbation."""

    def make(self) -> Perturbation:
        """Return the perturbation."""
        raise NotImplementedError

    @pytest.fixture
    def part(self) -> Perturbation:
        return self.make()

    @staticmethod
    def mixtures(seed: int = 0) -> dict[str, Mixture]:
        alphas = alphas_for(Softmax(), ROWS, seed=seed)
        return {label: Softmax().mix(alphas[label], row, {}) for label, row in ROWS.items()}

    @staticmethod
    def probe(weights: object) -> tuple[Tensor, dict[str, Tensor]]:
        """Return a loss that is linear in the weights."""
        assert isinstance(weights, dict)
        gradients = {label: torch.ones_like(row).cumsum(-1) for label, row in weights.items()}
        total = torch.stack([(row * gradients[label]).sum() for label, row in weights.items()]).sum()
        return total, gradients

    def moved(self, part: Perturbation, mixtures: dict[str, Mixture], seed: int) -> dict[str, Mixture]:
        draws = part.draw(mixtures, ROWS, PROGRESS, torch.Generator().manual_seed(seed), self.probe)
        return {label: part.apply(mixture, ROWS[label], draws[label]) for label, mixture in mixtures.items()}

    def test_weights_stay_on_the_simplex_and_what_runs_stays(self, part: Perturbation) -> None:
        for seed in range(20):
            mixtures = self.mixtures(seed)
            moved = self.moved(part, mixtures, seed)
            for label, mixture in moved.items():
                assert mixture.active == mixtures[label].active
                assert bool((mixture.slots >= 0).all())
                assert torch.allclose(mixture.slots.sum(1), torch.ones(1, dtype=torch.float64))
        assert any(not torch.equal(moved[label].slots, mixtures[label].slots) for label in ROWS)

    def test_the_generator_is_the_only_source_of_randomness(self, part: Perturbation) -> None:
        state, mixtures = torch.get_rng_state(), self.mixtures()
        first, second = self.moved(part, mixtures, 3), self.moved(part, mixtures, 3)
        assert all(torch.equal(first[label].slots, second[label].slots) for label in ROWS)
        assert torch.equal(torch.get_rng_state(), state)

    def test_a_candidate_that_was_pruned_keeps_weight_zero(self, part: Perturbation) -> None:
        mixtures = {
            label: Mixture(torch.cat([m.slots.new_zeros(1, 1), m.slots[:, 1:] / m.slots[:, 1:].sum()], 1), m.active[1:])
            for label, m in self.mixtures().items()
        }
        for mixture in self.moved(part, mixtures, 0).values():
            assert mixture.slots[0, 0].item() == 0.0


class WeightsRuleLaws:
    """Inherit this in a class `Test...`, and let `make` return your rule of the weights' gradient."""

    def make(self) -> WeightsRule:
        """Return the rule."""
        raise NotImplementedError

    @pytest.fixture
    def part(self) -> WeightsRule:
        return self.make()

    @staticmethod
    def found(seed: int = 0) -> WeightsPass:
        """Return a pass of two weights, of which one has no gradient, and of three layers that decide together."""
        generator = torch.Generator().manual_seed(seed)

        def drawn(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        slope, pull = drawn(4, 3), drawn(4, 3, 12)
        return WeightsPass(
            {"used": slope, "unused": None},
            drawn().abs(),
            PROGRESS,
            layers={"cell": drawn(3, 4)},
            along_layers=lambda by: {"used": slope + pull @ by["cell"].flatten(), "unused": None},
            valid={"used": drawn(4, 3), "unused": None},
            owners={"used": "candidate"},
        )

    def test_it_leaves_the_pass_as_it_is_and_draws_nothing(self, part: WeightsRule) -> None:
        found, before, state = self.found(), self.found(), torch.get_rng_state()
        first, second = part.apply(found), part.apply(found)
        assert torch.equal(torch.get_rng_state(), state)
        for one, other in ((before.gradients, found.gradients), (first[0], second[0])):
            assert one.keys() == other.keys()
            for gradient, again in zip(one.values(), other.values(), strict=True):
                assert gradient is again or (
                    gradient is not None and again is not None and torch.equal(gradient, again)
                )
        assert torch.equal(found.layers["cell"], before.layers["cell"])

    def test_every_weight_is_answered_and_the_figures_are_the_same_ones_every_time(self, part: WeightsRule) -> None:
        answers = [part.apply(self.found(seed)) for seed in range(3)]
        for gradients, figures, memory in answers:
            assert gradients.keys() == self.found().gradients.keys()
            assert all(g is None or g.shape == (4, 3) for g in gradients.values())
            assert figures.keys() == answers[0].figures.keys()
            assert not any(value.requires_grad for value in memory.values())
            assert all(value.shape == () and bool(value.isfinite()) for value in figures.values())


class AlphasOptimizerLaws:
    """Inherit this in a class `Test...`, and let `make` return your optimizer of the alphas."""

    def make(self) -> AlphasOptimizer:
        """Return the optimizer."""
        raise NotImplementedError

    @pytest.fixture
    def part(self) -> AlphasOptimizer:
        return self.make()

    @staticmethod
    def alphas(part: AlphasOptimizer) -> list[nn.Parameter]:
        generator = torch.Generator().manual_seed(0)
        drawn = [torch.randn(4, generator=generator, dtype=torch.float64) for _ in range(3)]
        return [nn.Parameter(torch.softmax(a, 0) if part.domain == "simplex" else a) for a in drawn]

    @staticmethod
    def step(optimizer: torch.optim.Optimizer, alphas: list[nn.Parameter], seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for alpha in alphas:
            alpha.grad = torch.randn(4, generator=generator, dtype=torch.float64)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def test_it_moves_against_the_gradient_and_stays_in_its_domain(self, part: AlphasOptimizer) -> None:
        alphas = self.alphas(part)
        before = [alpha.detach().clone() for alpha in alphas]
        optimizer = part.first(alphas)
        for alpha in alphas:
            alpha.grad = torch.tensor([1.0, 0.0, 0.0, -1.0], dtype=torch.float64)
        optimizer.step()
        for alpha, old in zip(alphas, before, strict=True):
            assert alpha[3] - alpha[0] > old[3] - old[0]
            if part.domain == "simplex":
                assert float(alpha.detach().sum()) == pytest.approx(1.0, rel=1e-12)
                assert bool((alpha >= 0).all())

    def test_it_goes_on_from_its_state_to_the_bit(self, part: AlphasOptimizer) -> None:
        alphas = self.alphas(part)
        optimizer = part.first(alphas)
        self.step(optimizer, alphas, 0)
        resumed = [nn.Parameter(alpha.detach().clone()) for alpha in alphas]
        again = part.first(resumed)
        again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        for seed in range(1, 4):
            self.step(optimizer, alphas, seed)
            self.step(again, resumed, seed)
        assert all(torch.equal(a, b) for a, b in zip(alphas, resumed, strict=True))

    def test_the_learning_rate_follows_its_schedule(self, part: AlphasOptimizer) -> None:
        optimizer = part.first(self.alphas(part))
        for epoch in range(3):
            progress = Progress(epoch, 3)
            part.set_learning_rate(optimizer, progress)
            rate = part.learning_rate
            expected = rate.value(progress) if isinstance(rate, Schedule) else rate
            assert [group["lr"] for group in optimizer.param_groups] == [expected] * len(optimizer.param_groups)


class AlwaysOnLaws:
    """Inherit this in a class `Test...`, and let `make` return your always-on candidate."""

    def make(self) -> AlwaysOn:
        """Return the always-on candidate."""
        raise NotImplementedError

    def make_choice(self) -> LayerChoice:
        """Return a choice of (B, 3) tensors that it stands beside."""
        return LayerChoice({"dense": nn.Linear(3, 3), "skip": nn.Identity()})

    @pytest.fixture
    def part(self) -> AlwaysOn:
        return self.make()

    @staticmethod
    def supernet(part: AlwaysOn, choice: LayerChoice) -> Supernet:
        torch.manual_seed(0)
        supernet = Supernet(choice, always_on=part).double()
        supernet.progress = PROGRESS
        return supernet

    def test_it_adds_its_weight_times_its_module_and_no_alpha(self, part: AlwaysOn) -> None:
        supernet = self.supernet(part, self.make_choice())
        x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        (alpha,), choice = supernet.alphas.values(), supernet.network
        assert isinstance(choice, LayerChoice)
        assert len(alpha) == len(choice.names) == len(choice.candidates) - 1
        weights = [*torch.softmax(alpha, 0), value_of(part.weight, PROGRESS, "weight")]
        expected = sum(weight * module(x) for weight, module in zip(weights, choice.candidates, strict=True))
        torch.testing.assert_close(supernet(x), expected)

    def test_it_leaves_the_choice_and_shares_nothing_with_it(self, part: AlwaysOn) -> None:
        choice = self.make_choice()
        before = {name: value.clone() for name, value in choice.state_dict().items()}
        first, second = part.module(choice), part.module(choice)
        assert first is not None
        assert second is not None
        assert first is not second
        own = {id(tensor) for module in (choice, first) for tensor in module.parameters()}
        assert len(own) == len([*choice.parameters(), *first.parameters()])
        assert all(torch.equal(value, before[name]) for name, value in choice.state_dict().items())

    def test_it_is_never_derived(self, part: AlwaysOn) -> None:
        choice = self.make_choice()
        supernet = self.supernet(part, choice)
        derived = derive(supernet, discretize(supernet), keep_weights=True)
        assert any(type(derived) is type(candidate) for candidate in choice.candidates)

    def test_its_weight_is_a_finite_number_in_every_epoch(self, part: AlwaysOn) -> None:
        for epoch in range(4):
            assert abs(value_of(part.weight, Progress(epoch, 4), "weight")) < float("inf")
