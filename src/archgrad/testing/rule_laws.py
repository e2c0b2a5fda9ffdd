"""What bilevel steps, stopping rules, selections, choices and spaces must keep to."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archgrad.bilevel import BilevelStep
from archgrad.choices import Choice, Mixture
from archgrad.derive import derive
from archgrad.discretize import discretize, random_architecture
from archgrad.epoch_end import EpochEnd
from archgrad.schedules import Progress
from archgrad.selection import Selection
from archgrad.stopping import Stopping
from archgrad.supernet import Supernet
from archgrad.testing.toy_spaces import MixedSpace, TabularSpace

__all__ = ["BilevelStepLaws", "ChoiceLaws", "SelectionLaws", "SpaceLaws", "StoppingLaws"]


def _state(supernet: Supernet) -> dict[str, Any]:
    return {
        **{name: value.clone() for name, value in supernet.state_dict().items()},
        "generator": supernet.generator.get_state(),
        "global": torch.get_rng_state(),
        "kept": dict(supernet.kept),
        "switched_off": dict(supernet.switched_off),
        "settled": list(supernet.settled),
        "training": [module.training for module in supernet.modules()],
        "gradients": [parameter.grad is None for parameter in supernet.parameters()],
    }


def _same(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    return before.keys() == after.keys() and all(
        torch.equal(value, after[name]) if isinstance(value, Tensor) else value == after[name]
        for name, value in before.items()
    )


def _toy(space: nn.Module | None = None) -> Supernet:
    torch.manual_seed(0)
    supernet = Supernet(MixedSpace() if space is None else space).double()
    supernet.progress = Progress(1, 4)
    return supernet


def _batch(samples: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    inputs = torch.randn(samples, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return inputs, torch.arange(samples) % 3


def _end_of(supernet: Supernet, epoch: int) -> EpochEnd:
    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        return iter([_batch(seed=seed) for seed in range(3)])

    return EpochEnd(
        supernet, discretize(supernet), Progress(epoch, 4), F.cross_entropy, lambda: _batch(seed=2), batches
    )


class BilevelStepLaws:
    """Inherit this in a class `Test...`, and let `make` return your bilevel step."""

    def make(self) -> BilevelStep:
        """Return the step."""
        raise NotImplementedError

    @pytest.fixture
    def part(self) -> BilevelStep:
        return self.make()

    def test_it_leaves_weights_alphas_buffers_and_optimizer_as_they_are(self, part: BilevelStep) -> None:
        supernet = _toy(TabularSpace())
        optimizer = torch.optim.SGD(supernet.weights.values(), 0.1, momentum=0.9)
        before, state = _state(supernet), copy.deepcopy(optimizer.state_dict())
        found = part.alphas_gradient(
            supernet, _batch(), _batch(seed=1), loss=F.cross_entropy, weights_optimizer=optimizer
        )
        assert _same(before, _state(supernet))
        assert optimizer.state_dict() == state
        assert found.gradients.keys() == supernet.alphas.keys()
        for label, gradient in found.gradients.items():
            assert gradient is None or (gradient.shape == supernet.alphas[label].shape and not gradient.requires_grad)
        assert found.valid_loss.shape == ()


class StoppingLaws:
    """Inherit this in a class `Test...`, and let `make` return your stopping rule."""

    def make(self) -> Stopping:
        """Return the rule."""
        raise NotImplementedError

    def histories(self) -> list[list[dict[str, Any]]]:
        """Return histories to decide on; by default what the rule measures of a toy search, epoch by epoch."""
        part = self.make()
        rows = [{"epoch": epoch, **part.probe(self.end(epoch))} for epoch in range(4)]
        return [rows[: n + 1] for n in range(4)]

    @staticmethod
    def end(epoch: int = 0) -> EpochEnd:
        """Return a toy search at the end of an epoch."""
        return _end_of(_toy(TabularSpace()), epoch)

    @pytest.fixture
    def part(self) -> Stopping:
        return self.make()

    def test_the_probe_measures_numbers_and_leaves_the_search_as_it_is(self, part: Stopping) -> None:
        end = self.end()
        before = _state(end.supernet)
        first, second = part.probe(end), part.probe(end)
        assert _same(before, _state(end.supernet))
        assert dict(first) == dict(second)
        assert all(value is None or math.isfinite(value) for value in first.values())
        assert not set(first) & {"epoch", "train_loss", "valid_loss", "temperature"}

    def test_the_columns_are_the_same_in_every_epoch(self, part: Stopping) -> None:
        assert len({tuple(part.probe(self.end(epoch))) for epoch in range(4)}) == 1

    def test_the_decision_is_pure_and_names_an_epoch_of_the_history(self, part: Stopping) -> None:
        for history in self.histories():
            before = copy.deepcopy(history)
            first, second = part.decide(history), self.make().decide(copy.deepcopy(history))
            assert first == second
            assert history == before
            assert first is None or (0 <= first.epoch <= history[-1]["epoch"] and first.reason)


class SelectionLaws:
    """Inherit this in a class `Test...`, and let `make` return your selection."""

    def make(self) -> Selection:
        """Return the selection."""
        raise NotImplementedError

    @pytest.fixture
    def part(self) -> Selection:
        return self.make()

    def test_every_candidate_has_a_finite_score_and_the_search_stays(self, part: Selection) -> None:
        supernet = _toy()
        before = _state(supernet)
        scores = part.scores(supernet)
        assert _same(before, _state(supernet))
        assert scores.keys() == supernet.rows.keys()
        for label, row in supernet.rows.items():
            assert len(scores[label]) == len(row.names)
            assert all(math.isfinite(score) for score in scores[label])
        assert part.scores(supernet) == scores

    def test_the_architecture_that_it_leads_to_can_be_derived(self, part: Selection) -> None:
        space = MixedSpace()
        architecture = discretize(Supernet(space), scores=part.scores(Supernet(space)))
        assert derive(space, architecture)(torch.zeros(2, 4)).shape == (2, 6)

    def test_what_it_settles_follows_from_the_search_and_leaves_weights_and_alphas(self, part: Selection) -> None:
        found = []
        for _ in range(2):
            torch.manual_seed(0)  # the same first weights
            supernet = _toy(MixedSpace())
            before = _state(supernet)
            for tuned in range(part.further_epochs(supernet) + 1):
                part.settle(_end_of(supernet, 3), tuned)
            settled = {name: getattr(supernet, name) for name in ("kept", "switched_off", "settled")}
            generator = {"generator": supernet.generator.get_state()}  # what it draws, it draws there
            assert _same({**before, **generator, **settled}, _state(supernet))
            architecture = discretize(supernet, scores=part.scores(supernet))
            assert derive(MixedSpace(), architecture)(torch.zeros(2, 4)).shape == (2, 6)
            found.append((settled, architecture.to_json()))
        assert found[0] == found[1]


class ChoiceLaws:
    """Inherit this in a class `Test...`; `make` returns your choice, and `arguments` what it is called with."""

    def make(self) -> Choice:
        """Return the choice, without a label."""
        raise NotImplementedError

    def arguments(self) -> Sequence[Any]:
        """Return the arguments of its forward pass."""
        raise NotImplementedError

    def test_a_mixture_of_one_candidate_is_what_the_fixed_choice_gives(self) -> None:
        torch.manual_seed(0)
        choice, arguments = self.make(), self.arguments()
        supernet = Supernet(choice, fast=False).eval()
        (label, *_) = (entry.label for entry in supernet.choices)
        for seed in range(5):
            generator = torch.Generator().manual_seed(seed)
            scores = {name: torch.rand(len(row.names), generator=generator) for name, row in supernet.rows.items()}
            decision = choice.decide(label, {name: row.tolist() for name, row in scores.items()})
            fixed = copy.deepcopy(choice).fix(label, decision).eval()
            mixtures = {}
            for name, row in supernet.rows.items():
                best = sorted(scores[name].topk(row.n_chosen).indices.tolist())
                slots = F.one_hot(torch.tensor(best), len(row.names)).to(torch.get_default_dtype())
                mixtures[name] = Mixture(slots, tuple(range(len(row.names))))
            if self.closes_exactly():
                torch.testing.assert_close(supernet.forward_at(mixtures, *arguments), fixed(*arguments))

    def closes_exactly(self) -> bool:
        """Return whether the fixed choice computes what the mixture of its candidates does; a cell drops edges."""
        return True

    def test_rows_are_the_same_every_time_and_decisions_are_plain(self) -> None:
        choice = self.make()
        rows = choice.rows("label")
        assert rows == choice.rows("label")
        even = {name: [1.0 / len(row.names)] * len(row.names) for name, row in rows.items()}
        assert choice.decide("label", even) == choice.decide("label", even)


class SpaceLaws:
    """Inherit this in a class `Test...`; `make` returns your space, and `inputs` a batch that it takes."""

    def make(self) -> nn.Module:
        """Return the space, as small as can be."""
        raise NotImplementedError

    def inputs(self) -> Any:
        """Return a batch of inputs."""
        raise NotImplementedError

    @pytest.fixture
    def space(self) -> nn.Module:
        torch.manual_seed(0)
        return self.make()

    def test_it_can_be_searched_and_the_fast_way_gives_the_same(self, space: nn.Module) -> None:
        inputs = self.inputs()
        outputs = [Supernet(space, fast=fast)(inputs) for fast in (True, False)]
        torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-3, atol=1e-5)

    def test_architectures_drawn_at_random_derive_to_plain_networks(self, space: nn.Module) -> None:
        for seed in range(3):
            network = derive(space, random_architecture(space, seed=seed))
            assert not any(isinstance(module, Choice) for module in network.modules())
            network(self.inputs())

    def test_the_space_stays_as_it_is(self, space: nn.Module) -> None:
        before = {name: value.clone() for name, value in space.state_dict().items()}
        Supernet(space)(self.inputs())
        assert all(torch.equal(value, before[name]) for name, value in space.state_dict().items())
