"""What a retrained network made of its test set, as the files of its run tell it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

__all__ = ["Masks", "Outputs", "Predictions", "Worst", "masks_of", "predictions_of", "worst_of"]

Tensors = Mapping[str, np.ndarray]
_N_MISTAKES = 24
_N_MASKS = 8
_MOST_CLASSES = 4096  # of a confusion matrix, which has their square
_MOST_COUNTED = 2**48  # their sums fit into whole numbers
_LARGEST = 1e100  # squares of larger numbers are infinite


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Values, or logits of several labels."""

    targets: np.ndarray
    """(N, values) float64."""
    outputs: np.ndarray
    """(N, values) float64."""


@dataclass(frozen=True, kw_only=True)
class Masks:
    """A few test images with the class of each pixel."""

    images: np.ndarray
    """(N, height, width, 3), uint8."""
    targets: np.ndarray
    """(N, height, width) int64."""
    predicted: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What a retrained network says of its test set."""

    counts: np.ndarray
    """(classes, classes), rows the true class, columns the predicted one."""
    mistakes: tuple[tuple[int, int, int, float], ...]
    """(index in the test set, true class, predicted class, probability of the latter), the surest first."""


@dataclass(frozen=True, kw_only=True)
class Worst:
    """The test images that the network got most wrong."""

    images: np.ndarray
    """(N, height, width, 3), uint8."""
    targets: tuple[int, ...]
    predicted: tuple[int, ...]
    confidence: tuple[float, ...]


def predictions_of(tensors: Tensors) -> Predictions | Outputs:
    """Return what the tensors of a predictions file say; of anyone's making.

    Raises:
        ValueError: They are none.
    """
    if "counts" in tensors:
        return _of_counts(tensors["counts"])
    if "outputs" in tensors:
        return _of_outputs(tensors)
    targets, logits = tensors.get("targets"), tensors.get("logits")
    if targets is not None and logits is not None and targets.shape == logits.shape and targets.dtype.kind == "f":
        targets = np.nan_to_num(targets).argmax(axis=1) if targets.ndim == 2 and targets.size else targets
    if targets is None or logits is None or logits.ndim != 2 or targets.shape != logits.shape[:1] or not logits.size:
        raise ValueError("it needs targets (N,) and logits (N, classes)")
    n_classes = logits.shape[1]
    if logits.dtype.kind != "f" or n_classes > _MOST_CLASSES:
        raise ValueError(f"it needs logits of floating point for at most {_MOST_CLASSES} classes")
    if targets.dtype.kind not in "iu" or targets.min() < 0 or targets.max() >= n_classes:
        raise ValueError(f"the targets are not classes from 0 to {n_classes - 1}")
    targets, logits = targets.astype(np.int64), np.nan_to_num(logits.astype(np.float64))
    predicted = logits.argmax(axis=1)
    counts = np.zeros((n_classes, n_classes), dtype=np.int64)
    np.add.at(counts, (targets, predicted), 1)
    shifted = np.exp(logits / 2 - logits.max(axis=1, keepdims=True) / 2) ** 2  # halves, as a difference may overflow
    confidence = shifted.max(axis=1) / shifted.sum(axis=1)
    wrong = np.flatnonzero(predicted != targets)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")][:_N_MISTAKES]
    mistakes = tuple((int(i), int(targets[i]), int(predicted[i]), float(confidence[i])) for i in wrong)
    return Predictions(counts=counts, mistakes=mistakes)


def _of_counts(counts: np.ndarray) -> Predictions:
    if counts.ndim != 2 or counts.dtype.kind not in "iu" or counts.shape[0] != counts.shape[1] or not counts.size:
        raise ValueError("it needs counts (classes, classes) of whole numbers")
    if len(counts) > _MOST_CLASSES or counts.min() < 0 or counts.max() > _MOST_COUNTED:
        raise ValueError(f"the counts must be from 0 to {_MOST_COUNTED}, of at most {_MOST_CLASSES} classes")
    return Predictions(counts=counts.astype(np.int64), mistakes=())


def _of_outputs(tensors: Tensors) -> Outputs:
    targets, outputs = tensors.get("targets", np.zeros(0)), tensors["outputs"]
    fits = targets.ndim and outputs.ndim and len(targets) == len(outputs) and targets.size == outputs.size
    if not fits or not targets.size or outputs.dtype.kind != "f" or targets.dtype.kind not in "iuf":
        raise ValueError("it needs targets and outputs of one size, (N, ...)")
    pairs = [np.nan_to_num(part.astype(np.float64), posinf=0.0, neginf=0.0) for part in (targets, outputs)]
    if max(np.abs(part).max() for part in pairs) > _LARGEST:
        raise ValueError(f"its numbers are larger than {_LARGEST:g}")
    targets, outputs = (part.reshape(len(part), -1) for part in pairs)
    return Outputs(targets=targets, outputs=outputs)


def masks_of(tensors: Tensors) -> Masks:
    """Return what the tensors of a file of masks say; raises as `predictions_of`."""
    images, targets, predicted = (tensors.get(name, np.zeros(0)) for name in ("images", "targets", "predicted"))
    fits = images.ndim == 4 and images.dtype == np.uint8 and images.shape[1] in (1, 3)
    sizes = (len(images), *images.shape[2:])
    if not fits or any(part.shape != sizes or part.dtype.kind not in "iu" for part in (targets, predicted)):
        raise ValueError("it needs images (N, 1 or 3, H, W) of uint8, and targets and predicted (N, H, W)")
    step = max(1, math.ceil(max(images.shape[2:]) / 96)) if images.size else 1
    images = images[:_N_MASKS, :, ::step, ::step].transpose(0, 2, 3, 1)
    images = np.repeat(images, 3, axis=3) if images.shape[3] == 1 else images
    targets, predicted = (part[:_N_MASKS, ::step, ::step].astype(np.int64) for part in (targets, predicted))
    return Masks(images=np.ascontiguousarray(images), targets=targets, predicted=predicted)


def worst_of(tensors: Tensors) -> Worst:
    """Return what the tensors of a file of worst images say; raises as `predictions_of`."""
    images = tensors.get("images", np.zeros(0))
    n = len(images)
    rows = [tensors.get(name, np.zeros(0)) for name in ("targets", "predicted", "confidence")]
    if (
        images.ndim != 4
        or images.dtype != np.uint8
        or images.shape[1] not in (1, 3)
        or any(row.shape != (n,) or row.dtype.kind not in "iuf" or not np.isfinite(row).all() for row in rows)
    ):
        raise ValueError("it needs images (N, 1 or 3, H, W) of uint8, and targets, predicted, confidence (N,)")
    step = max(1, math.ceil(max(images.shape[2:]) / 96))  # thumbnails: a page of photographs would be too large
    images = images[:_N_MISTAKES, :, ::step, ::step].transpose(0, 2, 3, 1)
    images = np.repeat(images, 3, axis=3) if images.shape[3] == 1 else images
    targets, predicted, confidence = (row[:_N_MISTAKES].tolist() for row in rows)
    return Worst(
        images=np.ascontiguousarray(images),
        targets=tuple(int(value) for value in targets),
        predicted=tuple(int(value) for value in predicted),
        confidence=tuple(float(value) for value in confidence),
    )
