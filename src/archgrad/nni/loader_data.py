"""From the two loaders of an NNI script to archgrad's data: what the weights and what the alphas learn from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler, SubsetRandomSampler
from torch.utils.data.dataloader import default_collate

from archgrad.data import Data
from archgrad.errors import DataError

__all__ = ["data_of_loaders", "the_loader"]


def the_loader(given: Any, name: str) -> DataLoader:
    """Return the one loader that is given, alone or in a list.

    Raises:
        DataError: It is none, or several.
    """
    if isinstance(given, list | tuple) and len(given) == 1:
        given = given[0]
    if not isinstance(given, DataLoader):
        what = f"{len(given)} loaders" if isinstance(given, list | tuple) else type(given).__name__
        raise DataError(f"{name} must be a torch DataLoader, but got {what}. Give one loader of a map-style data set.")
    return given


def data_of_loaders(train: DataLoader, valid: DataLoader, *, batches: int | None = None) -> Data:
    """Return data whose halves are the samples of two loaders, which an own order then shuffles.

    Args:
        train: Of the samples that the weights learn from.
        valid: Of those that the alphas learn from, in batches of the same size.
        batches: Take so many batches of each; None takes all.

    Raises:
        DataError: A loader has a sampler or a function of its own, or the sizes of batches differ.
    """
    if train.batch_size != valid.batch_size:
        raise DataError(
            f"A step of the search takes a batch of each loader, of one size, but the batch sizes are "
            f"{train.batch_size} and {valid.batch_size}. Give both the same batch_size."
        )
    halves = _samples_of(train, "train_dataloaders"), _samples_of(valid, "val_dataloaders")
    if batches is not None:
        count = batches * (train.batch_size or 1)
        halves = halves[0][:count], halves[1][:count]
    data = Data.from_datasets(train.dataset, name="loaders").take(halves[0])
    return replace(data, valid=Data.from_datasets(valid.dataset).take(halves[1]).train)


def _samples_of(loader: DataLoader, name: str) -> Tensor:
    sampler, size = loader.sampler, getattr(loader.dataset, "__len__", None)
    if loader.batch_size is None or size is None or loader.collate_fn is not default_collate:
        raise DataError(
            f"{name} must batch samples of a map-style data set in torch's own way, but it has a batch sampler, a "
            f"collate_fn or an iterable data set of its own. Give DataLoader(dataset, batch_size=...)."
        )
    if isinstance(sampler, SubsetRandomSampler):
        return torch.as_tensor(list(sampler.indices), dtype=torch.int64)
    drawn_once = isinstance(sampler, RandomSampler) and not sampler.replacement and sampler.num_samples == size()
    if not (drawn_once or isinstance(sampler, SequentialSampler)):
        raise DataError(
            f"{name} must draw each sample once an epoch, but its sampler is a {type(sampler).__name__}. Give "
            f"shuffle=True, or a SubsetRandomSampler."
        )
    return torch.arange(size())
