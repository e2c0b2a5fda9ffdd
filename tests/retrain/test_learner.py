"""One step of training is what the formulas say."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import archgrad as ag
from archgrad.errors import OptionError
from archgrad.fast import accelerated
from archgrad.operations import DropPath
from archgrad.retrain import Recipe
from archgrad.retrain.learner import Learner
from archgrad.retrain.totals import NonfiniteStep

from .small import classification, small_network

CPU = torch.device("cpu")
INPUTS = torch.tensor([[1.0, -2.0], [0.5, 3.0], [-1.0, 1.0]], dtype=torch.float64)
TARGETS = torch.tensor([0, 1, 1])
WEIGHT = torch.tensor([[0.3, -0.1], [0.2, 0.4]], dtype=torch.float64)


class Linear(nn.Module):
    """Logits W x; with an auxiliary matrix also V x while training."""

    def __init__(self, *, auxiliary: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(WEIGHT.clone())
        self.auxiliary_weight = nn.Parameter(WEIGHT.clone()) if auxiliary else None

    def forward(self, x: Tensor) -> Any:
        logits = x @ self.weight.T
        return (logits, x @ self.auxiliary_weight.T) if self.training and self.auxiliary_weight is not None else logits


def gradient(weight: Tensor, smoothing: float = 0.0) -> Tensor:
    """Of the mean cross-entropy of W x: mean of (softmax - target) x^T."""
    target = F.one_hot(TARGETS, 2).double() * (1 - smoothing) + smoothing / 2
    return ((INPUTS @ weight.T).softmax(1) - target).T @ INPUTS / 3


def learner(network: nn.Module, **options: Any) -> Learner:
    recipe = Recipe(**{"precision": "64", "grad_clip": 0.0, "weight_decay": 0.0, **options})
    made = Learner(network, recipe, task=classification(2), device=CPU, channels_last=False)
    made.start_epoch(0)
    return made


def test_sgd_with_momentum_and_weight_decay_matches_its_formula() -> None:
    network = Linear()
    made = learner(network, weight_decay=0.1)
    weight, buffer = WEIGHT, torch.zeros_like(WEIGHT)
    for step in range(3):
        made.train_step(step, INPUTS, TARGETS)
        buffer = 0.9 * buffer + gradient(weight) + 0.1 * weight
        weight = weight - 0.025 * buffer
    torch.testing.assert_close(network.weight.detach(), weight, rtol=1e-12, atol=0)


def test_clipping_scales_the_gradient_to_its_bound_and_zero_is_off() -> None:
    norm = float(gradient(WEIGHT).norm())
    for bound, factor in ((norm / 4, 0.25), (norm * 4, 1.0), (0.0, 1.0)):
        network = Linear()
        made = learner(network, grad_clip=bound)
        made.train_step(0, INPUTS, TARGETS)
        expected = WEIGHT - 0.025 * factor * gradient(WEIGHT)
        torch.testing.assert_close(network.weight.detach(), expected, rtol=1e-5, atol=0)
        assert made.totals.gradient_norm == pytest.approx(norm, rel=1e-12)  # as it was before clipping


def test_the_auxiliary_loss_counts_by_its_weight_and_is_not_in_the_reported_loss() -> None:
    network = Linear(auxiliary=True)
    made = learner(network, auxiliary_weight=0.4)
    made.train_step(0, INPUTS, TARGETS)
    torch.testing.assert_close(network.weight.detach(), WEIGHT - 0.025 * gradient(WEIGHT), rtol=1e-12, atol=0)
    assert network.auxiliary_weight is not None
    expected = WEIGHT - 0.025 * 0.4 * gradient(WEIGHT)
    torch.testing.assert_close(network.auxiliary_weight.detach(), expected, rtol=1e-12, atol=0)
    assert made.totals.means()["train_loss"] == pytest.approx(float(F.cross_entropy(INPUTS @ WEIGHT.T, TARGETS)))


def test_label_smoothing_spreads_its_share_over_the_classes() -> None:
    network = Linear()
    learner(network, label_smoothing=0.2).train_step(0, INPUTS, TARGETS)
    torch.testing.assert_close(network.weight.detach(), WEIGHT - 0.025 * gradient(WEIGHT, 0.2), rtol=1e-12, atol=0)


@pytest.mark.parametrize("parts", [2, 3])
def test_accumulation_gives_the_gradient_of_the_whole_batch(parts: int) -> None:
    network = Linear()
    made = learner(network, accumulation=parts)
    made.train_step(0, INPUTS, TARGETS)
    torch.testing.assert_close(network.weight.detach(), WEIGHT - 0.025 * gradient(WEIGHT), rtol=1e-12, atol=0)
    assert made.totals.samples == 3
    assert made.totals.means()["train_loss"] == pytest.approx(float(F.cross_entropy(INPUTS @ WEIGHT.T, TARGETS)))


@pytest.mark.parametrize("parts", [2, 3])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_accumulation_leaves_targets_out_as_the_whole_batch_does(parts: int, smoothing: float) -> None:
    # -100 is what cross-entropy ignores; of 2 parts the first has no other target.
    results = []
    for accumulation in (1, parts):
        network = Linear(auxiliary=True)
        made = learner(network, accumulation=accumulation, label_smoothing=smoothing)
        made.train_step(0, INPUTS, torch.tensor([-100, 1, 0]))
        results.append((made.totals.means()["train_loss"], network.weight.detach(), network.auxiliary_weight))
    assert results[1][0] == pytest.approx(results[0][0], abs=1e-12)
    for whole, in_parts in zip(results[0][1:], results[1][1:], strict=True):
        torch.testing.assert_close(in_parts, whole, rtol=1e-12, atol=1e-12)


def test_adamw_takes_its_first_step_by_the_sign_of_the_gradient() -> None:
    network = Linear()
    learner(network, optimizer="adamw", learning_rate=0.01, weight_decay=0.1).train_step(0, INPUTS, TARGETS)
    expected = WEIGHT * (1 - 0.01 * 0.1) - 0.01 * gradient(WEIGHT).sign()
    torch.testing.assert_close(network.weight.detach(), expected, rtol=1e-5, atol=0)


def test_accuracy_counts_the_samples_that_are_classified_rightly() -> None:
    made = learner(Linear())
    made.train_step(0, INPUTS, TARGETS)
    hits = int(((INPUTS @ WEIGHT.T).argmax(1) == TARGETS).sum())
    assert hits > 0
    assert made.measure.values() == {"accuracy": hits / 3}


def test_learning_rate_and_drop_path_are_those_of_the_epoch() -> None:
    network = small_network()
    made = Learner(network, Recipe(epochs=4), task=classification(3), device=CPU, channels_last=False)
    seen = []
    for epoch in range(4):
        made.start_epoch(epoch)
        (drop_path,) = (part for part in network.modules() if isinstance(part, DropPath))
        seen.append((made.state()["optimizer"]["param_groups"][0]["lr"], drop_path.p))
    assert seen == [(Recipe(epochs=4).learning_rate_in(epoch), 0.2 * epoch / 4) for epoch in range(4)]


def test_the_fast_path_changes_the_layout_and_only_rounding() -> None:
    inputs, targets = torch.rand(8, 2, 6, 6, dtype=torch.float64), torch.arange(8) % 3
    results = []
    for fast in (False, True):
        network = small_network(channels=2)
        network.dropout.p = 0.0
        with accelerated(network) if fast else nullcontext():
            made = Learner(network, Recipe(precision="64"), task=classification(3), device=CPU, channels_last=fast)
            formats: list[bool] = []
            network.stem[0].register_forward_hook(lambda m, x, y, f=formats: f.append(x[0].is_contiguous()))
            made.start_epoch(0)
            made.train_step(0, inputs, targets)
            assert formats == [not fast]
            results.append(made.weights())
    for name, value in results[0].items():
        torch.testing.assert_close(value, results[1][name], rtol=1e-10, atol=1e-12)


def test_bf16_keeps_weights_and_loss_in_32_bits() -> None:
    network = small_network()
    made = Learner(network, Recipe(precision="bf16"), task=classification(3), device=CPU, channels_last=True)
    seen = []
    network.classifier.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    made.start_epoch(0)
    made.train_step(0, torch.rand(8, 1, 6, 6), torch.arange(8) % 3)
    assert seen == [torch.bfloat16]
    assert {value.dtype for value in made.weights().values()} == {torch.float32, torch.int64}
    assert made.predict(torch.rand(2, 1, 6, 6)).dtype == torch.float32


# --- values that are not finite ---------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_before_the_weights_change() -> None:
    network = Linear()
    made = learner(network)
    with pytest.raises(NonfiniteStep) as caught:
        made.train_step(7, INPUTS * torch.inf, TARGETS)
    assert caught.value.step == 7
    assert torch.equal(network.weight.detach(), WEIGHT)


def test_a_skipped_step_leaves_weights_momentum_and_statistics_as_they_were() -> None:
    network = small_network()
    made = Learner(network, Recipe(on_nonfinite="skip"), task=classification(3), device=CPU, channels_last=False)
    made.start_epoch(0)
    inputs, targets = torch.rand(8, 1, 6, 6), torch.arange(8) % 3
    made.train_step(0, inputs, targets)
    before = {name: value.clone() for name, value in made.weights().items()}
    momentum = [entry["momentum_buffer"].clone() for entry in made.state()["optimizer"]["state"].values()]
    made.train_step(1, inputs * torch.nan, targets)
    assert made.skipped_steps == made.totals.skipped == 1
    assert made.totals.steps == 1
    assert all(torch.equal(value, before[name]) for name, value in made.weights().items())
    after = [entry["momentum_buffer"] for entry in made.state()["optimizer"]["state"].values()]
    assert all(torch.equal(a, b) for a, b in zip(momentum, after, strict=True))


def test_steps_that_are_read_late_are_summed_in_order_and_tell_the_first_that_broke() -> None:
    # On a GPU values are read seldom; the same sums as on the CPU, and the right step is named.
    early, late = learner(Linear()), learner(Linear())
    late._reads_each_step = False
    for step in range(25):
        early.train_step(step, INPUTS, TARGETS)
        late.train_step(step, INPUTS, TARGETS)
    assert late.totals.unread == 5
    late.totals.read()
    assert late.state() | {"network": 0, "optimizer": 0} == early.state() | {"network": 0, "optimizer": 0}
    late.train_step(25, INPUTS * torch.nan, TARGETS)
    late.train_step(26, INPUTS, TARGETS)
    with pytest.raises(NonfiniteStep) as caught:
        late.totals.read()
    assert caught.value.step == 25


# --- what does not fit ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "output", [torch.zeros(3, 5), torch.zeros(3), "text", (torch.zeros(3, 2),) * 3, torch.zeros(4, 2)]
)
def test_a_network_that_returns_something_else_is_an_error(output: Any) -> None:
    class Wrong(Linear):
        def forward(self, x: Tensor) -> Any:
            return output

    with pytest.raises(OptionError, match=r"must return logits of shape \(3, 2\)"):
        learner(Wrong()).train_step(0, INPUTS, TARGETS)


def test_a_network_of_several_outputs_is_told_of_the_task_for_it() -> None:
    class Named(Linear):
        def forward(self, x: Tensor) -> Any:
            return {"logits": super().forward(x)}

    with pytest.raises(OptionError, match=r"returned dict\. Where it returns several tensors, give a Task"):
        learner(Named()).train_step(0, INPUTS, TARGETS)


def test_a_network_without_parameters_is_an_error() -> None:
    with pytest.raises(OptionError, match="no parameters"):
        learner(nn.Identity())


def test_a_loss_of_both_parts_of_a_pair_is_told_of_the_task_for_it() -> None:
    class Boxes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.place, self.size = nn.Linear(4, 2), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.place(x), self.size(x)

    def loss(outputs: Any, targets: Tensor) -> Tensor:
        place, size = outputs
        return F.mse_loss(place, targets) + size.square().mean()

    data = (torch.randn(8, 4), torch.randn(8, 2))
    with pytest.raises(OptionError, match=r"cannot take the first alone: .*give a Task with auxiliary=False"):
        ag.retrain(Boxes(), data, loss=loss, epochs=1, batch_size=4, drop_path=0.0, quiet=True)
