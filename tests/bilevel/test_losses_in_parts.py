"""Whatever a loss averages over, a batch in parts gives what the whole batch gives: L = sum N(part) / sum D(part)."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import archgrad as ag
from archgrad.bilevel import BilevelStep, FirstOrder, Unrolled
from archgrad.errors import NonFiniteError, OptionError

CLASSES, SAMPLES = 4, 6
WEIGHT = torch.tensor([0.3, 2.0, 0.0, 1.1], dtype=torch.float64)


class Smooth(nn.Module):
    """No BatchNorm: each sample's loss stands alone."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = ag.LayerChoice({"tanh": nn.Tanh(), "linear": nn.Linear(3, 3)}, label="layer")
        self.head = nn.Linear(3, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x))


class PerPixel(Smooth):
    """Logits (B, classes, 2, 2)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).permute(0, 3, 1, 2)


class Masked:
    """A loss of one's own that says what it averages over: the elements that are not NaN."""

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.numerator(outputs, targets) / self.denominator(targets)

    def numerator(self, outputs: Tensor, targets: Tensor) -> Tensor:
        there = ~targets.isnan()
        return (outputs - targets.where(there, 0.0)).square().where(there, 0.0).sum()

    def denominator(self, targets: Tensor) -> Tensor:
        return (~targets.isnan()).sum()


def searched(
    network: type[Smooth], loss: Any, targets: tuple[Tensor, Tensor], step: BilevelStep, accumulation: int
) -> dict[str, Tensor]:
    torch.manual_seed(0)
    supernet = ag.Supernet(network().double(), seed=1).train()
    size = (SAMPLES, 3) if network is Smooth else (SAMPLES, 2, 2, 3)
    x = torch.randn(2, *size, dtype=torch.float64)
    report = ag.search_step(
        supernet,
        (x[0], targets[0]),
        (x[1], targets[1]),
        step=step,
        weights_optimizer=torch.optim.SGD(supernet.weights.values(), 0.1, momentum=0.9),
        alphas_optimizer=torch.optim.SGD(supernet.alphas.values(), 0.3),  # shows the size of the gradient
        loss=loss,
        accumulation=accumulation,
        grad_clip=0.0,
    )
    losses = {"train": torch.tensor(report.train_loss), "valid": torch.tensor(report.valid_loss)}
    return losses | {name: value.clone() for name, value in supernet.state_dict().items()}


REDUCTIONS = st.sampled_from(["mean", "sum"])
IGNORED = st.sampled_from([-100, 0, 1, 255])


@st.composite
def class_problems(draw: st.DrawFn) -> tuple[type[Smooth], Any, tuple[Tensor, Tensor]]:
    """(network, loss, targets): class numbers of which many are ignored, whole parts of a batch among them."""
    options: dict[str, Any] = {"reduction": draw(REDUCTIONS), "ignore_index": draw(IGNORED)}
    if draw(st.booleans()):
        options["weight"] = WEIGHT
    if draw(st.booleans()):
        options["label_smoothing"] = draw(st.sampled_from([0.1, 0.6]))
    network = draw(st.sampled_from([Smooth, PerPixel]))
    shape = (SAMPLES,) if network is Smooth else (SAMPLES, 2, 2)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    targets = torch.randint(CLASSES, (2, *shape), generator=generator)
    targets[torch.rand(targets.shape, generator=generator) < draw(st.sampled_from([0.0, 0.5, 0.9]))] = options[
        "ignore_index"
    ]
    targets[:, 0] = 3  # something is left: the mean over nothing is NaN in the whole batch too
    as_module = draw(st.booleans())
    return network, nn.CrossEntropyLoss(**options) if as_module else partial(F.cross_entropy, **options), targets


@settings(max_examples=30, deadline=None, derandomize=True)
@given(class_problems(), st.sampled_from([FirstOrder(), Unrolled(), Unrolled(hvp="exact")]), st.sampled_from([2, 3, 6]))
def test_losses_of_classes(problem: Any, step: BilevelStep, accumulation: int) -> None:
    whole = searched(*problem, step, 1)
    parts = searched(*problem, step, accumulation)
    # A finite difference divides what rounding leaves by the radius.
    tolerance = 1e-10 if step != Unrolled() else 1e-7
    for name, value in whole.items():
        assert value.isfinite().all()
        torch.testing.assert_close(parts[name], value, rtol=tolerance, atol=tolerance, msg=name)


VALUES = torch.randn(2, SAMPLES, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
PROBABILITIES = VALUES.softmax(-1)
NUMBERS = torch.tensor([[0, 3, 1, 1, 2, 0], [2, 2, 3, 0, 1, 3]])
MISSING = VALUES.clone()
MISSING[:, 1:4] = torch.nan
UNWEIGHTED = {"weight": torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64)}

OTHERS = {
    "cross-entropy of probabilities": (nn.CrossEntropyLoss(WEIGHT, label_smoothing=0.1), PROBABILITIES),
    "its sum": (nn.CrossEntropyLoss(WEIGHT, reduction="sum"), PROBABILITIES),
    "the plain function ignores -100": (F.cross_entropy, NUMBERS.where(NUMBERS != 1, -100)),
    "negative log-likelihood": (nn.NLLLoss(WEIGHT, ignore_index=1), NUMBERS),
    "its function": (partial(F.nll_loss, ignore_index=1), NUMBERS),
    "squares": (nn.MSELoss(), VALUES),
    "sum of squares": (nn.MSELoss(reduction="sum"), VALUES),
    "absolute values": (partial(F.smooth_l1_loss, reduction="sum", beta=0.3), VALUES),
    "binary with weights": (nn.BCEWithLogitsLoss(**UNWEIGHTED, pos_weight=WEIGHT), PROBABILITIES),
    "its sum of weights": (nn.BCEWithLogitsLoss(**UNWEIGHTED, reduction="sum"), PROBABILITIES),
    "batchmean": (nn.KLDivLoss(reduction="batchmean"), PROBABILITIES),
    "margins": (nn.MultiMarginLoss(weight=WEIGHT), NUMBERS),
    "a function of one's own": (lambda outputs, targets: F.cross_entropy(outputs, targets) + 0.1, NUMBERS),
    "one that says what it averages over": (Masked(), MISSING),
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("step", [FirstOrder(), Unrolled(hvp="exact")])
def test_other_losses(name: str, step: BilevelStep) -> None:
    if name == "margins" and step != FirstOrder():
        return  # torch does not differentiate it twice
    loss, targets = OTHERS[name]
    whole = searched(Smooth, loss, targets, step, 1)
    for accumulation in (2, 4, 6):
        parts = searched(Smooth, loss, targets, step, accumulation)
        for key, value in whole.items():
            assert value.isfinite().all()
            torch.testing.assert_close(parts[key], value, rtol=1e-10, atol=1e-10, msg=key)


@pytest.mark.parametrize(
    "loss",
    [
        lambda outputs, targets: F.cross_entropy(outputs, targets, ignore_index=1),
        lambda outputs, targets: F.cross_entropy(outputs, targets, reduction="sum"),
        lambda outputs, targets: F.cross_entropy(outputs, targets, weight=WEIGHT),
        partial(lambda ignored, outputs, targets: F.cross_entropy(outputs, targets, ignore_index=ignored), 1),
        lambda outputs, targets: F.cross_entropy(outputs, targets) + outputs.std(0).mean(),
    ],
    ids=["ignores", "sums", "weighs", "has an argument before the outputs", "looks across samples"],
)
def test_a_loss_that_cannot_be_put_together_from_parts_is_an_error_and_no_other_result(loss: Any) -> None:
    targets = NUMBERS.clone()
    targets[:, 3:] = 1
    assert all(value.isfinite().all() for value in searched(Smooth, loss, targets, FirstOrder(), 1).values())
    for step in (FirstOrder(), Unrolled(), Unrolled(hvp="exact")):
        with pytest.raises(OptionError, match=r"is no mean over the samples.*numerator.*accumulation=1"):
            searched(Smooth, loss, targets, step, 2)


def test_a_loss_with_random_numbers_is_not_taken_for_one_that_cannot_be_put_together() -> None:
    def noisy(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(F.dropout(outputs, 0.5), targets)

    assert all(value.isfinite().all() for value in searched(Smooth, noisy, NUMBERS, FirstOrder(), 3).values())


def test_a_batch_whose_every_target_is_ignored_is_nan_in_parts_too() -> None:
    for accumulation in (1, 3):
        with pytest.raises(NonFiniteError, match="validation loss is nan"):
            searched(
                Smooth, nn.CrossEntropyLoss(ignore_index=7), torch.full_like(NUMBERS, 7), FirstOrder(), accumulation
            )
