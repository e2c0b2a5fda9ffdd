"""A supernet that is handed in is searched in place, as its space would be."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import archgrad as ag
from archgrad.errors import OptionError


def run(space: Any, **options: Any) -> ag.SearchResult:
    inputs = torch.randn(32, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    data = (inputs, torch.arange(32) % 2)
    return ag.search(space, data, epochs=1, batch_size=8, seed=5, device="cpu", quiet=True, **options)


def test_a_supernet_is_trained_as_its_space_would_be() -> None:
    space = ag.spaces.tiny(channels=2, num_classes=2)
    supernet = ag.Supernet(space, ag.methods.snas_without_none.relaxation, seed=5)  # the default's
    expected, result = run(space), run(supernet)
    assert result.supernet is supernet
    assert result.history == expected.history
    theirs = expected.supernet.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in supernet.state_dict().items())


def test_an_optimizer_over_the_supernets_weights_is_used_as_it_is() -> None:
    supernet = ag.Supernet(ag.spaces.tiny(channels=2, num_classes=2), seed=5)
    optimizer = torch.optim.SGD(supernet.weights.values(), 0.1)
    before = {name: weight.detach().clone() for name, weight in supernet.weights.items()}
    run(supernet, weights_optimizer=optimizer)
    assert any(not torch.equal(weight, before[name]) for name, weight in supernet.weights.items())


def test_an_optimizer_that_holds_alphas_is_an_error() -> None:
    supernet = ag.Supernet(ag.spaces.tiny(channels=2, num_classes=2), seed=5)
    with pytest.raises(OptionError, match="4 parameters that are not the model's"):
        run(supernet, weights_optimizer=torch.optim.SGD(supernet.parameters(), 0.1))


def test_another_relaxation_than_the_supernets_is_an_error() -> None:
    supernet = ag.Supernet(ag.spaces.tiny(channels=2, num_classes=2))
    with pytest.raises(OptionError, match="relaxation does not go with a supernet"):
        run(supernet, relaxation=ag.relaxation.Softmax())
