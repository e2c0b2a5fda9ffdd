"""Pairs of arrays, and files of them."""

import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from archgrad.data.dataset import Data
from archgrad.data.samples import TensorSamples
from archgrad.errors import DataError
from archgrad.input_checks import has_channels_last
from archgrad.json_text import shown, shown_text
from archgrad.nested import map_leaves

_NAMES = {
    # (inputs, targets) of training: the same of the test, which may be missing
    ("x", "y"): ("x_test", "y_test"),
    ("inputs", "targets"): ("test_inputs", "test_targets"),
    ("x_train", "y_train"): ("x_test", "y_test"),
}


def pair_samples(inputs: Any, targets: Any) -> TensorSamples:
    """Make samples of a pair.

    Args:
        inputs: (N, ...) tensor or array, or a tuple, list or dict of such.
        targets: (N, ...) tensor or array.

    Raises:
        DataError: They hold anything else, have no common N, or a value is not finite.
    """
    targets = _as_tensors(targets, "targets")
    if not isinstance(targets, Tensor):
        raise DataError(f"Targets must be one tensor or array, but they are a {type(targets).__name__}. Give one.")
    return TensorSamples(_as_tensors(inputs, "inputs"), targets)


def load_arrays(path: Path) -> Data:
    """Read training and test samples from a file that `numpy.savez` wrote.

    Args:
        path: Of the file. Its arrays are called x and y, inputs and targets, or x_train and y_train; a test set is
            x_test and y_test, or test_inputs and test_targets. Images are (N, C, H, W).

    Raises:
        DataError: The file cannot be read, its arrays have other names, or they are no samples.
    """
    try:
        with np.load(path, allow_pickle=False) as file:  # a pickle could run code
            if not hasattr(file, "files"):
                raise ValueError("it holds a single array without a name")
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise DataError(
            f"The data file '{path}' cannot be read: {shown_text(str(error))}. Write it with numpy.savez(FILE, x=..., "
            f"y=...), of arrays of numbers."
        ) from error
    kinds = [(train, test) for train, test in _NAMES.items() if set(train) & arrays.keys()]
    tested = len(kinds) == 1 and bool(set(kinds[0][1]) & arrays.keys())
    parts = kinds[0] if tested else kinds[0][:1] if kinds else ()
    if not kinds or arrays.keys() != {name for part in parts for name in part}:
        pairs = "; ".join(
            f"{' and '.join(train)} (for a test set {' and '.join(test)})" for train, test in _NAMES.items()
        )
        raise DataError(
            f"The arrays of '{path}' must be called {pairs}, but it has {', '.join(map(shown, arrays)) or 'none'}. "
            f"Rename them, and leave others out."
        )
    samples = []
    for inputs, targets in parts:
        _check_layout(arrays[inputs], f"'{inputs}' of '{path}'")
        samples.append(pair_samples(arrays[inputs], arrays[targets]))
    return Data.from_datasets(*samples, name=os.fspath(path))


def _as_tensors(value: Any, what: str) -> Any:
    """Return the same with tensors in the place of arrays."""
    unlike: list[str] = []

    def check(leaf: Any) -> Any:
        if isinstance(leaf, np.ndarray):
            try:
                return torch.from_numpy(leaf.astype(leaf.dtype.newbyteorder("="), copy=True))
            except TypeError:
                unlike.append(f"array of {leaf.dtype}")
        elif not isinstance(leaf, Tensor):
            unlike.append(type(leaf).__name__)
        return leaf

    changed = map_leaves(value, check)
    if unlike:
        raise DataError(
            f"The {what} of a pair must be tensors or arrays of numbers, or tuples and dicts of them, but among "
            f"them is an object of type {unlike[0]}. Convert it (names of classes by numpy.unique(y, "
            f"return_inverse=True)[1]), or leave it out."
        )
    return changed


def _check_layout(inputs: np.ndarray, what: str) -> None:
    if inputs.ndim == 4 and has_channels_last(inputs.shape):
        raise DataError(
            f"Images must have the shape (N, C, H, W), but {what} has {inputs.shape}, as (N, H, W, C). Store "
            f"numpy.moveaxis(x, 3, 1)."
        )
    if inputs.ndim == 3 and inputs.dtype == np.uint8:
        raise DataError(
            f"Images must have the shape (N, C, H, W), but {what} has {inputs.shape}. Store x[:, None] for grey "
            f"images, or a floating-point type if they are none."
        )
