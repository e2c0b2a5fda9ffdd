"""Sizes are checked before anything is built from them, wherever they come from."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import archgrad as ag
from archgrad.errors import OptionError
from archgrad.machine import machine_memory
from archgrad.sizes import check_whole
from archgrad.spaces import darts_cifar, darts_imagenet, nasbench201, nasbench_macro, tiny


@pytest.mark.parametrize(
    ("build", "sizes"),
    [
        (darts_cifar, {"channels": 200_000}),
        (darts_cifar, {"cells": 2_000_000}),
        (darts_cifar, {"channels": 2**31 - 1}),
        (darts_cifar, {"num_classes": 2**31 - 1, "channels": 64}),
        (darts_imagenet, {"channels": 400_000, "stage": "search"}),
        (nasbench201, {"channels": 400_000}),
        (nasbench201, {"cells": 20_000_000}),
        (tiny, {"channels": 200_000}),
        (tiny, {"in_channels": 2**31 - 1}),
    ],
)
def test_what_no_machine_holds_is_refused_before_it_is_built(
    build: Callable[..., nn.Module], sizes: dict[str, Any]
) -> None:
    tracemalloc.start()
    with pytest.raises(OptionError, match=r"takes about .* GB .* this machine has|more weights than can be counted"):
        build(**sizes)
    assert tracemalloc.get_traced_memory()[1] < 2**26
    tracemalloc.stop()


def test_a_retraining_network_is_refused_as_well() -> None:
    for sizes in ({"channels": 200_000}, {"cells": 2_000_000}):
        template = darts_cifar(**sizes, stage="retrain", auxiliary=True)
        with pytest.raises(OptionError, match="takes about"):
            ag.derive(template, ag.architectures.DARTS_V2)


@pytest.mark.parametrize("build", [darts_cifar, darts_imagenet, nasbench201, nasbench_macro, tiny])
@pytest.mark.parametrize("value", ["16", 1.5, None, [16], True, 10**400, -1, float("nan")])
def test_other_types_are_refused_by_name(build: Callable[..., nn.Module], value: Any) -> None:
    with pytest.raises(OptionError, match=r"^channels must be .*, but got channels="):
        build(channels=value)


def test_the_estimate_is_what_a_network_takes_and_moves_no_random_number(monkeypatch: pytest.MonkeyPatch) -> None:
    state = torch.get_rng_state()
    monkeypatch.setattr("archgrad.sizes._ORDINARY_WEIGHTS", 0)  # so that nothing is taken for ordinary
    network = darts_cifar(60, 9)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    torch.set_rng_state(state)
    monkeypatch.setattr("archgrad.sizes.machine_memory", lambda: int(1.9 * weights))
    with pytest.raises(OptionError, match="takes about"):
        darts_cifar(60, 9)
    monkeypatch.setattr("archgrad.sizes.machine_memory", lambda: int(2.6 * weights))
    again = darts_cifar(60, 9)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))


def test_on_the_meta_device_anything_can_be_built() -> None:
    with torch.device("meta"):
        assert next(tiny(channels=200_000).parameters()).device.type == "meta"


def test_the_memory_is_the_machines() -> None:
    memory = machine_memory()
    assert memory is None or 2**28 < memory < 2**50
    with pytest.raises(OptionError, match="x must be at most 5, but got x=6"):
        check_whole("x", 6, least=1, most=5)
