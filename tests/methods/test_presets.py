"""The published methods: each runs, fast and plain alike, and takes the numbers of its paper."""

from __future__ import annotations

import re
from functools import partial

import pytest
import torch

import archgrad as ag
from archgrad.bilevel import search_step
from archgrad.methods import Method
from archgrad.perturbations import Uniform
from archgrad.schedules import Progress, value_of
from archgrad.search.short_forms import PRESETS
from archgrad.skip_noise import noisy_skips

STEPS = 2
LAYERED = partial(ag.spaces.nasbench201, cells=1, in_channels=1, num_classes=10)
"""With cells that decide together."""


def stepped(method: Method, *, fast: bool) -> dict[str, torch.Tensor]:
    """Take two steps in a tiny space; return alphas, weights and losses."""
    torch.manual_seed(0)
    layered = any(rule.looks_at_layers for rule in method.weights_rules)
    parts = method.stages[0].space.get("partial_channels", 1)
    if parts > 1 or method.edge_weights is not None:
        space = ag.spaces.nasbench201(12, 1, in_channels=1, partial_channels=parts)
    else:
        space = (LAYERED if layered else ag.spaces.tiny)(channels=2)
    supernet = ag.Supernet(
        space.double(),
        method.relaxation,
        seed=0,
        fast=fast,
        edge_weights=method.edge_weights,
        always_on=method.always_on,
    ).train()
    optimizer = torch.optim.SGD(supernet.weights.values(), 0.025, momentum=0.9)
    alphas_optimizer = method.alphas_optimizer.first(list(supernet.alphas.values()))
    generator = torch.Generator().manual_seed(1)
    found = {}
    torch.manual_seed(2)  # of the noise
    for step in range(STEPS):
        images = torch.randn(2, 6, 1, 8, 8, generator=generator, dtype=torch.float64)
        labels = torch.arange(6) % 10
        with noisy_skips(supernet, method.skip_noise):
            report = search_step(
                supernet,
                (images[0], labels),
                (images[1], labels),
                step=method.step,
                weights_optimizer=optimizer,
                alphas_optimizer=alphas_optimizer,
                regularizers=method.regularizers,
                perturbation=method.perturbation,
                weights_rules=method.weights_rules,
                weights_first=method.weights_first,
                progress=Progress(step, STEPS),
            )
        found[f"train loss {step}"] = torch.as_tensor(report.train_loss)
        found[f"valid loss {step}"] = torch.as_tensor(report.valid_loss)
    return found | {k: v.detach() for k, v in [*supernet.alphas.items(), *supernet.weights.items()]}


@pytest.mark.parametrize("name", PRESETS)
def test_the_fast_path_carries_every_method(name: str) -> None:
    fast, plain = (stepped(PRESETS[name], fast=fast) for fast in (True, False))
    assert fast.keys() == plain.keys()
    for key, value in fast.items():
        torch.testing.assert_close(value, plain[key], rtol=1e-8, atol=1e-10, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("name", PRESETS)
def test_every_method_names_its_source(name: str) -> None:
    assert re.search(r"20\d\d|code of", PRESETS[name].source)


def test_schedules_of_a_preset_follow_the_length_of_the_run() -> None:
    half = [Progress(epochs // 2, epochs) for epochs in (4, 100)]
    beta, smooth = PRESETS["beta_darts"].regularizers[0], PRESETS["sdarts_rs"].perturbation
    assert isinstance(smooth, Uniform)
    assert [value_of(beta.weight, progress, "weight") for progress in half] == [25.0, 25.0]
    assert [value_of(smooth.radius, progress, "radius") for progress in half] == pytest.approx([0.165, 0.165])
    assert [PRESETS["snas"].relaxation.temperature(progress) for progress in half] == [5.5, 5.5]


def test_the_search_that_a_preset_names_ends_and_derives() -> None:
    for name in ("fair_darts", "drnas", "snas", "darts_plus", "darts_minus"):
        result = ag.search(ag.spaces.tiny(channels=2), "digits", method=name, epochs=1, quiet=True, device="cpu")
        assert ag.derive(ag.spaces.tiny(channels=2), result.architecture)(torch.randn(2, 1, 8, 8)).shape == (2, 10)
