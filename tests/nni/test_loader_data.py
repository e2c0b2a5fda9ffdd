"""The two loaders of a script say which samples the weights and which the alphas learn from."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from nni_problems import Line, half_square, no_metrics
from torch.utils.data import (
    DataLoader,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

import archgrad as ag
from archgrad.errors import DataError, OptionError
from archgrad.nni.loader_data import data_of_loaders, the_loader

NUMBERS = TensorDataset(torch.ones(8, dtype=torch.float64), torch.tensor([0.0] * 4 + [10.0] * 4, dtype=torch.float64))


def loader(**options: Any) -> DataLoader:
    return DataLoader(**{"dataset": NUMBERS, "batch_size": 2, **options})


def samples(data: ag.Data) -> tuple[list[float], list[float]]:
    """The inputs that the weights and those that the alphas learn from."""
    return tuple([half.samples[int(k)][0].item() for k in half.indices] for half in data.halves(fraction=0.5, seed=0))


def test_samplers_over_one_data_set_say_its_halves() -> None:
    counted = TensorDataset(torch.arange(8.0), torch.tensor([0, 1] * 4))
    first, second = (loader(dataset=counted, sampler=SubsetRandomSampler(part)) for part in ([3, 1], [0, 2, 5]))
    data = data_of_loaders(first, second)
    assert samples(data) == ([3, 1], [0, 2, 5])
    assert data.classes == ("0", "1")  # of all, not of the half
    assert samples(data_of_loaders(first, second, batches=1)) == ([3, 1], [0, 2])


def test_two_data_sets_are_the_halves() -> None:
    one, other = (TensorDataset(x, torch.zeros(3)) for x in (torch.arange(3.0), torch.arange(3.0, 6.0)))
    data = data_of_loaders(loader(dataset=one, shuffle=True), loader(dataset=other))
    assert samples(data) == ([0, 1, 2], [3, 4, 5])


@pytest.mark.parametrize(
    ("valid", "message"),
    [
        ({"batch_size": 4}, "batch sizes are 2 and 4"),
        ({"sampler": WeightedRandomSampler([1.0] * 8, 8)}, "draw each sample once an epoch.*WeightedRandomSampler"),
        ({"sampler": RandomSampler(NUMBERS, replacement=True)}, "draw each sample once"),
        ({"collate_fn": lambda samples: samples}, "collate_fn"),
    ],
)
def test_loaders_that_say_something_else_are_refused(valid: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        data_of_loaders(loader(), loader(**valid))


def test_one_loader_is_taken_alone_or_in_a_list() -> None:
    only = loader()
    assert the_loader(only, "train_dataloaders") is the_loader([only], "train_dataloaders") is only
    with pytest.raises(DataError, match="train_dataloaders must be a torch DataLoader, but got 2 loaders"):
        the_loader([only, only], "train_dataloaders")


def test_the_weights_of_a_search_learn_from_their_half_alone() -> None:
    # y = w x with x = 1: towards targets 0, w' = w - lr w = 1; any target of the other half, 10, would move it up.
    data = ag.Data.from_datasets(Subset(NUMBERS, range(4)), valid=Subset(NUMBERS, range(4, 8)))
    space, options = Line(w=2.0), {"epochs": 1, "batch_size": 4, "quiet": True, "grad_clip": 0, "schedule": "constant"}
    optimizer = torch.optim.SGD(space.parameters(), lr=0.5)
    found = ag.search(
        space, data, loss=half_square, metrics=no_metrics, weights_optimizer=optimizer, learning_rate=0.5, **options
    )
    assert found.supernet.network.w.item() == pytest.approx(1.0)
    with pytest.raises(OptionError, match=r"weights_fraction=0\.25 is the share"):
        ag.search(space, data, weights_fraction=0.25, loss=half_square, metrics=no_metrics, **options)
