"""What data a run reads, in one line."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from archgrad.data.dataset import Data
from archgrad.data.samples import pair_of, size_of
from archgrad.data.seeds import kept_randomness
from archgrad.nested import is_structure

__all__ = ["Described", "described"]

_COLOURS = {1: "grey", 3: "RGB"}
_NAMED = 3
"""Most classes without a sample that are named."""


class Described(NamedTuple):
    """What a run says of its data."""

    unit: str
    """What its samples are called: "images" or "samples"."""
    text: str
    """Such as "300 images, 3 classes, 240/60 for weights/alphas, 40x40 RGB, 100 for the test"."""


def described(data: Data, halves: Sequence[int] = ()) -> Described:
    """Tell what the data is; its first sample is read.

    Args:
        data: Of a run.
        halves: How many training samples there are for the weights, and for the alphas; one or none where they are not
            split.
    """
    with kept_randomness():
        inputs, _ = pair_of(data.train, 0)
    unit = "images" if data.channels else "samples"
    count = len(data.train_targets) + (0 if data.valid is None or len(halves) < 2 else size_of(data.valid))
    if data.channels:
        colours = _COLOURS.get(data.channels, f"of {data.channels} channels")
        size = data.augmentation.resized_crop
        inputs_text = f"{inputs.shape[1]}x{inputs.shape[2]} {colours}" + (f" cut to {size}x{size}" if size else "")
    else:
        inputs_text = f"inputs of {_shapes(inputs)}"
    parts = [
        f"{count} {unit}" if count > 1 else f"1 {unit[:-1]}",
        _classes(data) if data.classes else f"targets of {_shapes(data.train_targets[0])}",
        *([f"{'/'.join(map(str, halves))} for weights/alphas{_how_split(data)}"] if len(halves) > 1 else []),
        inputs_text,
        *(["with weights of samples"] if data.has_sample_weights else []),
        "no test set" if data.test is None else f"{size_of(data.test)} for the test",
    ]
    return Described(unit, ", ".join(parts))


def _how_split(data: Data) -> str:
    ways = {" as given": data.valid, " by groups": data.groups, " by time": data.times}
    return next((way for way, given in ways.items() if given is not None), "")


def _classes(data: Data) -> str:
    """How many there are, and those without a training sample, such as 0 where class numbers begin at 1."""
    seen = set(data.train_targets.unique().tolist())
    without = [name for number, name in enumerate(data.classes) if number not in seen]
    names = ", ".join(map(repr, without[:_NAMED])) + (", ..." if len(without) > _NAMED else "")
    return f"{len(data.classes)} classes" + (f" (no training sample of {names})" if without else "")


def _shapes(value: Any) -> str:
    if isinstance(value, Tensor | np.ndarray):
        return f"shape {tuple(value.shape)}" if value.ndim else "one number"
    if isinstance(value, Mapping):
        return ", ".join(f"'{name}' of {_shapes(part)}" for name, part in value.items())
    if is_structure(value):
        return " and ".join(map(_shapes, value))
    return "one number"
