"""Whether training and validation samples can be learnt from together."""

from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from archgrad.data.augment import LARGEST_PIXEL
from archgrad.data.samples import collate_of, pair_of, sample_weights_of, targets_of
from archgrad.data.seeds import kept_randomness
from archgrad.errors import DataError
from archgrad.nested import tensors_in


def check_alike(train: Dataset, valid: Dataset, first: Any) -> None:
    """Refuse validation samples of another kind than the training samples, with which a retraining joins them.

    Args:
        train: Training samples.
        valid: Validation samples.
        first: Input of the first training sample.

    Raises:
        DataError: Targets or inputs are of another type or shape.
    """
    targets, others = targets_of(train), targets_of(valid)
    if targets.shape[1:] != others.shape[1:] or targets.is_floating_point() != others.is_floating_point():
        raise DataError(
            f"The targets of the validation samples are {_kind(others)} a sample, but those of the training samples "
            f"{_kind(targets)}. Give both alike."
        )
    if (sample_weights_of(train) is None) != (sample_weights_of(valid) is None):
        raise DataError("Training and validation samples must both have weights in the loss, or neither. Give both.")
    if collate_of(train) is not None or collate_of(valid) is not None:
        return  # of unequal lengths
    with kept_randomness():
        other, _ = pair_of(valid, 0)
    inputs, those = ([_kind_of_input(part) for part in tensors_in(each)] for each in (first, other))
    if inputs != those:
        raise DataError(
            f"The inputs of the validation samples are {', '.join(those)}, but those of the training samples "
            f"{', '.join(inputs)}. Give both alike."
        )


def _kind(targets: Tensor) -> str:
    one, several = ("fraction", "fractions") if targets.is_floating_point() else ("whole number", "whole numbers")
    return f"one {one}" if targets.ndim == 1 else f"{several} of shape {tuple(targets.shape[1:])}"


def _kind_of_input(part: Tensor) -> str:
    images = part.dtype in LARGEST_PIXEL and part.ndim == 3
    numbers = str(part.dtype).removeprefix("torch.") if images else "fractions" if part.is_floating_point() else "whole"
    return f"{numbers} of shape {tuple(part.shape)}"
