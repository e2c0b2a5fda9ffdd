"""Data sets of (input, target, weight): pairs, and beside them how much each sample counts in the loss."""

from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, TensorDataset

from archgrad.data.samples import Collate, LabelledSamples, TensorSamples, as_samples, size_of, target_tensor
from archgrad.data.seeds import kept_randomness
from archgrad.errors import DataError

__all__ = ["pairs_of"]


class _Pairs(Dataset):
    """Of a data set of (input, target, weight) the pairs."""

    def __init__(self, samples: Dataset) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return size_of(self._samples)

    def __getitem__(self, index: int) -> Any:
        return _triple(self._samples, index)[:2]


def pairs_of(samples: Dataset, collate: Collate | None) -> Dataset:
    """Return a data set of (input, target, weight) as one of pairs with weights; each sample is read once.

    Args:
        samples: Any data set of triples; those of a `TensorDataset` are taken as they are.
        collate: See `Data.from_datasets`.

    Raises:
        DataError: A sample is no such triple, or a weight no number of at least 0.
    """
    if isinstance(samples, TensorDataset) and len(samples.tensors) == 3 and collate is None:
        return TensorSamples(*samples.tensors)
    samples = as_samples(samples)
    with kept_randomness():
        read = [_triple(samples, index)[1:] for index in range(size_of(samples))]
    targets, weights = zip(*read, strict=True)
    try:
        numbers = [float(weight) for weight in weights]
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"The weight of a sample must be one number, but it cannot be read: {error}.") from error
    if collate is not None and len({np.shape(target) for target in targets}) > 1:
        known = torch.zeros(len(targets), 0)  # of unequal lengths, which are known when they are a batch
    else:
        known = target_tensor(list(targets))
    return LabelledSamples(_Pairs(samples), known, collate, numbers)


def _triple(samples: Dataset, index: int) -> tuple[Any, Any, Any]:
    found = samples[index]
    if not isinstance(found, tuple | list) or len(found) != 3:
        what = f"{type(found).__name__} of {len(found)}" if isinstance(found, tuple | list) else type(found).__name__
        raise DataError(
            f"With weighted=True a sample must be (input, target, weight), but sample {index} of "
            f"{type(samples).__name__} is a {what}."
        )
    return found[0], found[1], found[2]
