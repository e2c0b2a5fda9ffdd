"""Derived networks with changed parts: on the fast path, retrained and exported they compute what they say."""

from __future__ import annotations

import functools
import os
import random
import warnings
from pathlib import Path

import pytest
import torch
from modifications import CHANGES, Space, batch, mode
from test_modifications import BATCHES, changes_of, compare, outcome
from torch import nn

import archgrad as ag
from archgrad.discretize import random_architecture
from archgrad.export import export_onnx
from archgrad.fast import accelerate, accelerated

CELL_CHANGES = [change for change in CHANGES if change.__name__ not in ("swap_operation", "share")]


DRAWS = int(os.environ.get("ARCHGRAD_DRAWS", len(CELL_CHANGES)))


@pytest.mark.parametrize("part", range(2))
@pytest.mark.usefixtures("backend")
def test_a_changed_derived_network_computes_what_it_says(part: int) -> None:
    for draw in range(DRAWS):
        told, expected = one_pass(part, draw, fast=False)
        _, found = one_pass.__wrapped__(part, draw, fast=True)
        compare([expected], [found], told)


@functools.cache  # the plain path is the same whatever the fast one runs with
def one_pass(part: int, draw: int, *, fast: bool) -> tuple[str, dict[str, torch.Tensor] | str]:
    """Say what is drawn, and return what a pass of it gives."""
    seed = 1000 * part + draw
    random.seed(seed), torch.manual_seed(seed)
    space = Space().double()
    network = ag.derive(space, random_architecture(space, seed=seed))
    kind, is_late = random.choice(BATCHES), random.random() < 0.5
    x = batch(kind)
    changes = changes_of(draw, among=CELL_CHANGES, most=4)
    torch.manual_seed(seed)
    if fast and is_late:
        accelerate(network)
    for change in changes:
        change(network)
    if mode not in changes:
        network.double()
    if fast and not is_late:
        accelerate(network)
    torch.manual_seed(seed)
    told = f"seed={seed}: {[c.__name__ for c in changes]}, {'late' if is_late else 'early'}, batch: {kind}"
    return told, outcome(network, x)


def silu_network() -> nn.Module:
    torch.manual_seed(0)
    network = ag.derive(
        ag.spaces.darts_cifar(4, 3, num_classes=10, in_channels=1, stage="retrain"), ag.architectures.DARTS_V2
    )
    for owner in list(network.modules()):
        for name, part in list(owner._modules.items()):
            if type(part) is nn.ReLU:
                owner._modules[name] = nn.SiLU()
    return network


def test_retraining_a_changed_network_reports_what_the_network_does(tmp_path: Path) -> None:
    pixels = torch.rand(48, 1, 8, 8, dtype=torch.float64)
    labels = torch.arange(48) % 10
    results = [
        ag.retrain(
            silu_network(), (pixels, labels), epochs=2, batch_size=16, precision="64", fast=fast, seed=0, drop_path=0.0
        )
        for fast in (False, True)
    ]
    for a, b in zip(*(result.history for result in results), strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-9)
    plain, fast = (result.network for result in results)
    assert [type(part) for part in plain.modules()] == [type(part) for part in fast.modules()]
    for (name, value), other in zip(plain.state_dict().items(), fast.state_dict().values(), strict=True):
        torch.testing.assert_close(other, value, rtol=1e-7, atol=1e-9, msg=lambda text, n=name: f"{n}: {text}")


def test_a_changed_network_is_exported_as_it_is(tmp_path: Path) -> None:
    network = silu_network().eval()
    x = torch.randn(4, 1, 8, 8)
    expected = network(x)
    with accelerated(network):
        torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-5)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = export_onnx(network, tmp_path / "a.onnx", input_shape=(1, 8, 8))
    session = pytest.importorskip("onnxruntime").InferenceSession(str(exported.path))
    found = torch.from_numpy(session.run(["logits"], {"inputs": x.numpy()})[0])
    torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-5)
