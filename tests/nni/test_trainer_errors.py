"""What cannot be honoured is refused by the constructor, by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from nni_problems import Line, ones_and_zeros, trainer
from torch import nn
from torch.utils.data import IterableDataset, TensorDataset

import archgrad as ag
from archgrad.errors import DataError, OptionError, SpaceError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": 1}, "loss must be a function .* but got loss=1"),
        ({"metrics": None}, "metrics must be a function .* but got metrics=None"),
        ({"num_epochs": 0}, "num_epochs must be a whole number of at least 1, but got num_epochs=0"),
        ({"num_epochs": -3}, "num_epochs=-3"),
        ({"num_epochs": 2.0}, r"num_epochs=2\.0"),
        ({"num_epochs": True}, "num_epochs=True"),
        ({"grad_clip": -1.0}, r"grad_clip must be a finite number of at least 0, but got grad_clip=-1\.0\. 0 is off"),
        ({"grad_clip": None}, "grad_clip=None. 0 is off"),
        ({"grad_clip": float("nan")}, "grad_clip=nan"),
        ({"learning_rate": 0.0}, r"learning_rate must be a finite number above 0, but got learning_rate=0\.0"),
        ({"learning_rate": float("inf")}, "learning_rate=inf"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, but got batch_size=0"),
        ({"workers": -1}, "workers must be a whole number of at least 0, but got workers=-1. 0 reads in this process"),
        ({"device": "nowhere"}, "nowhere"),
        ({"log_frequency": 0}, "log_frequency must be a whole number of at least 1, but got log_frequency=0"),
        ({"arc_learning_rate": 0}, "arc_learning_rate must be a finite number above 0, but got arc_learning_rate=0"),
        ({"unrolled": "yes"}, "unrolled must be True or False, but got unrolled='yes'"),
        ({"unrolled": 2}, "unrolled=2"),
        ({"schedule": "linear"}, "schedule must be 'constant' or 'cosine', but got schedule='linear'"),
        ({"seed": -1}, "seed=-1"),
        ({"checkpoint_minutes": 0}, "checkpoint_minutes=0"),
        ({"checkpoint_steps": 0}, "checkpoint_steps=0"),
    ],
)
def test_a_value_outside_its_range_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        trainer(Line(), **options)


def test_a_model_without_choices_is_an_error() -> None:
    with pytest.raises(SpaceError, match="Linear has no open choice"):
        trainer(nn.Linear(2, 2))


@pytest.mark.parametrize("model", [ag.Supernet(Line()), "model"])
def test_something_that_is_no_space_is_an_error(model: Any) -> None:
    with pytest.raises(OptionError, match="model must be a module with open choices, but got"):
        trainer(model)


def test_a_dataset_smaller_than_two_batches_is_an_error() -> None:
    trainer(Line(), dataset=ones_and_zeros(8), batch_size=4)
    with pytest.raises(DataError, match=r"7 samples, and batch_size=4 needs 8\. Give batch_size=3 or less"):
        trainer(Line(), dataset=ones_and_zeros(7), batch_size=4)
    with pytest.raises(DataError, match=r"1 samples, and batch_size=4 needs 8\. Give more data"):
        trainer(Line(), dataset=ones_and_zeros(1), batch_size=4)


class Nothing(IterableDataset):
    def __iter__(self) -> Any:
        return iter([])


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (Nothing(), "has no samples"),
        (None, "got NoneType"),
        (TensorDataset(torch.ones(8), torch.zeros(8, dtype=torch.int64)), "at least 2 classes"),
        (TensorDataset(torch.full((8,), float("nan")), torch.zeros(8)), "must be finite"),
    ],
)
def test_a_dataset_that_cannot_be_trained_on_is_an_error(dataset: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        trainer(Line(), dataset=dataset)
