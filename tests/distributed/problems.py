"""What the tests search and train on one process and on several; every process makes the same from the same seed."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import archgrad as ag
from archgrad.data import Data, TensorSamples
from archgrad.search.short_forms import PRESETS
from archgrad.weights_rules import Flooding, FreezeOperations, LayerAlignment
from parts_of_methods import images as small_images
from parts_of_methods import space_of_preset

STEPS = {
    "first": lambda: ag.bilevel.FirstOrder(),
    "fd": lambda: ag.bilevel.Unrolled(),
    "exact": lambda: ag.bilevel.Unrolled(hvp="exact"),
}
# 90 samples are halves of 45: two batches of 16 and one of 13, which two processes cut into 6 and 7.
SAMPLES = 90
EPOCHS = 2


class Space(nn.Module):
    """Two choices over small images, smooth, with or without BatchNorm between."""

    def __init__(self, *, norm: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4) if norm else nn.Identity()
        self.first = ag.LayerChoice(
            {
                "conv": nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4) if norm else nn.Tanh()),
                "skip": nn.Identity(),
                "pool": nn.AvgPool2d(3, 1, 1),
            },
            label="first",
        )
        self.second = ag.LayerChoice([nn.Linear(4, 4), nn.Tanh()], label="second")
        self.flat_norm = nn.BatchNorm1d(4, affine=False, momentum=None) if norm else nn.Identity()
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.norm(self.stem(x)))
        x = self.first(x).mean((2, 3))
        return self.head(self.second(self.flat_norm(x)))


def space(*, norm: bool) -> nn.Module:
    torch.manual_seed(5)
    return Space(norm=norm)


def cell_space() -> nn.Module:
    """The paper's cells, as small as they come, which the fast path computes."""
    torch.manual_seed(5)
    return ag.spaces.darts_cifar(channels=2, cells=3, num_classes=3, in_channels=1)


class Layers(nn.Module):
    """Two layers that decide together, smooth, over small images."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(36, 4), self._layer(), self._layer(), nn.Linear(4, 3))

    @staticmethod
    def _layer() -> ag.LayerChoice:
        candidates = {
            "linear": nn.Linear(4, 4),
            "deep": nn.Sequential(nn.Linear(4, 4), nn.Tanh()),
            "skip": nn.Identity(),
        }
        return ag.LayerChoice(candidates, label="layer")

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def ruled(*, batch_size: int) -> dict[str, Any]:
    """Search with every rule of the weights' gradient, some steps flooded and some candidates frozen."""
    torch.manual_seed(5)
    rules = (FreezeOperations(0.8, 2), Flooding(1.0), LayerAlignment(1.0, radius=1e-2))
    result = ag.search(
        Layers(),
        images(),
        method=ag.Method(weights_rules=rules),
        epochs=4,
        batch_size=batch_size,
        precision="64",
        device="cpu",
        learning_rate=0.2,
        quiet=True,
    )
    return state_of(result.supernet) | {"history": result.history}


def images(samples: int = SAMPLES, test: int | None = None, *, side: int = 6) -> Data:
    generator = torch.Generator().manual_seed(1)

    def draw(count: int) -> TensorSamples:
        targets = torch.arange(count) % 3
        inputs = torch.randint(0, 120, (count, 1, side, side), generator=generator, dtype=torch.uint8)
        inputs[torch.arange(count), 0, targets] += 90
        return TensorSamples(inputs, targets)

    return Data.from_datasets(
        draw(samples), None if test is None else draw(test), classes=["top", "middle", "bottom"], name="rows"
    )


def searched(step: str, *, norm: bool, batch_size: int, cells: bool = False, **options: Any) -> dict[str, Any]:
    """Search in double precision; return everything that the processes must agree on."""
    result = ag.search(
        cell_space() if cells else space(norm=norm),
        images(),
        step=STEPS[step](),
        epochs=1 if cells else EPOCHS,
        batch_size=batch_size,
        precision="64",
        device="cpu",
        alphas_learning_rate=0.05,
        quiet=True,
        **options,
    )
    return state_of(result.supernet) | {"history": result.history}


def selected(batch_size: int) -> dict[str, Any]:
    """Search and settle the choices by what the supernet can least do without, with epochs of tuning between."""
    method = ag.Method(selection=ag.selection.PerturbationBased(tune_epochs=1))
    options: dict[str, Any] = {"batch_size": batch_size, "precision": "64", "device": "cpu", "quiet": True}
    result = ag.search(space(norm=False), images(), method=method, epochs=EPOCHS, **options)
    judged = [[row["choice"], row["kept"], *row["accuracy_without"].values()] for row in result.supernet.settled]
    return state_of(result.supernet) | {"history": [*result.history, *(dict(enumerate(row)) for row in judged)]}


def weighted(batch_size: int, *, norm: bool, **options: Any) -> dict[str, Any]:
    """Search with weights of samples, and select among networks that are drawn and get their own statistics."""
    data = images()
    assert isinstance(data.train, TensorSamples)
    weights = torch.arange(SAMPLES) % 4
    data = replace(data, train=TensorSamples(data.train.inputs, data.train.targets, weights))
    method = ag.Method(selection=ag.selection.OneShot(networks=4))
    given: dict[str, Any] = {"epochs": 1, "precision": "64", "device": "cpu", "quiet": True}
    result = ag.search(space(norm=norm), data, method=method, batch_size=batch_size, **given, **options)
    memory = dict(result.supernet.memory["OneShot"])
    return {"state": state_of(result.supernet)["state"] | memory, "history": result.history}


def searched_preset(name: str, *, batch_size: int, **options: Any) -> dict[str, Any]:
    """Search small cells with a published method in double precision."""
    method = PRESETS[name]
    torch.manual_seed(5)
    result = ag.search(
        space_of_preset(method),
        small_images(32),
        method=name,
        epochs=max(2, len(method.stages)),
        batch_size=batch_size,
        precision="64",
        device="cpu",
        cutout=0,
        quiet=True,
        **options,
    )
    return state_of(result.supernet) | {"history": result.history}


def assert_equal(together: dict[str, Any], alone: dict[str, Any]) -> None:
    """Hold what several processes computed against what one did."""
    for name, value in alone["state"].items():
        torch.testing.assert_close(together["state"][name], value, rtol=1e-9, atol=1e-9, msg=name)
    for ours, theirs in zip(alone["history"], together["history"], strict=True):
        # A metric is the mean of single-precision values; everything else is in double precision.
        tolerance = {name: 1e-7 if "accuracy" in str(name) else 1e-9 for name in ours}
        for name, value in ours.items():
            expected = pytest.approx(value, abs=tolerance[name]) if isinstance(value, float) else value
            assert theirs[name] == expected, name


def assert_same_bits(first: dict[str, Any], second: dict[str, Any]) -> None:
    """Hold the results of two processes against each other."""
    assert first["history"] == second["history"]
    for name, value in first["state"].items():
        assert torch.equal(second["state"][name], value), name


LOSSES: dict[str, Any] = {
    "ignored": nn.CrossEntropyLoss(torch.tensor([0.2, 1.0, 3.0]).double(), ignore_index=1, label_smoothing=0.1),
    "sum": nn.CrossEntropyLoss(reduction="sum"),
}


def stepped(loss: str, step: str, *, samples: slice, accumulation: int) -> dict[str, Any]:
    """Take one step with a part of a batch of 8, of which the last 4 have targets that `ignored` ignores."""
    supernet = ag.Supernet(space(norm=False).double(), seed=2).train()
    inputs = torch.randn(2, 8, 1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    targets = torch.tensor([[0, 2, 1, 0, 1, 1, 1, 1], [2, 0, 0, 1, 1, 1, 1, 1]])
    report = ag.search_step(
        supernet,
        (inputs[0, samples], targets[0, samples]),
        (inputs[1, samples], targets[1, samples]),
        step=STEPS[step](),
        weights_optimizer=torch.optim.SGD(supernet.weights.values(), 0.1),
        alphas_optimizer=torch.optim.SGD(supernet.alphas.values(), 0.1),
        loss=LOSSES[loss],
        accumulation=accumulation,
        grad_clip=0.0,
    )
    return state_of(supernet) | {"losses": [report.train_loss, report.valid_loss]}


def state_of(module: nn.Module) -> dict[str, Any]:
    return {"state": {name: value.detach().clone() for name, value in module.state_dict().items()}}


class Network(nn.Module):
    """A plain classifier with BatchNorm, and no random numbers of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.classifier = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


def retrained(*, batch_size: int, test: int = 7, **options: Any) -> dict[str, Any]:
    """Retrain in double precision on 45 images, tested on 7 or as many as are given."""
    torch.manual_seed(6)
    network = Network()
    result = ag.retrain(
        network,
        images(45, test=test),
        epochs=EPOCHS,
        batch_size=batch_size,
        precision="64",
        device="cpu",
        drop_path=0.0,
        cutout=0,
        quiet=True,
        **options,
    )
    return state_of(network) | {"history": result.history}


def summed(*, batch_size: int, **options: Any) -> dict[str, Any]:
    """Retrain with a loss that is a sum, tested on one image, so that a second process has none."""
    loss = nn.CrossEntropyLoss(reduction="sum")
    return retrained(batch_size=batch_size, test=1, loss=loss, learning_rate=1e-3, **options)


def dropping_space() -> nn.Module:
    """A space with BatchNorm, whose statistics are each process's own, and with dropout."""
    torch.manual_seed(5)
    return nn.Sequential(Space(norm=True), nn.Dropout(0.2))


class Dropping(Network):
    """The classifier with dropout; told to signal, it sends its process SIGTERM in its first training step."""

    signals_as: int | None = None

    def signal(self) -> None:
        self.signals_as = id(self)  # not its copies, which are tried out before the run begins

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.signals_as == id(self):
            self.signals_as = None
            os.kill(os.getpid(), signal.SIGTERM)
        return nn.functional.dropout(super().forward(x), 0.2, self.training)
