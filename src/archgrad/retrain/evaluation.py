"""The test set, looked at: loss, metrics, outputs, and the pictures that show most."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from archgrad.batches import count, plain_targets
from archgrad.data import Data, ImageTransform, evaluation_batches, first_batch
from archgrad.data.batch_sampler import part_of
from archgrad.data.samples import sample_weights_of, size_of
from archgrad.distributed import gather_rows, rank, sum_over_ranks, world_size
from archgrad.losses import in_parts, loss_kind
from archgrad.nested import map_tensors
from archgrad.retrain.learner import Learner
from archgrad.tasks import Measure, loss_on

__all__ = ["Evaluation", "evaluate", "mask_pictures", "worst_images"]

_MOST_KEPT = 2**26
"""Most numbers that the outputs of a test set may be to be kept."""
_MOST_PICTURES = 8


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a network makes of a test set."""

    loss: float
    """The task's, over all samples; of classes without label smoothing."""
    metrics: Mapping[str, float | None]
    """Of the task, over all samples; None where one cannot be computed."""
    outputs: Tensor | None
    """(N, ...) float32, on the CPU; None where they are many, of several shapes, or a class at each position."""
    targets: Tensor | None
    """(N, ...), on the CPU; None as `outputs`."""
    counts: Tensor | None
    """(classes, classes) int64, rows the true class, columns the predicted one; None where there are no classes."""

    def value(self, metric: str) -> float | None:
        """Return a metric, or "loss"."""
        return self.loss if metric == "loss" else self.metrics[metric]


def evaluate(
    learner: Learner, data: Data, *, transform: ImageTransform | None, batch_size: int, workers: int
) -> Evaluation | None:
    """Evaluate a network on the test set, each process on its part; None where the data has none.

    Every process returns the same, outputs of all samples included.

    Args:
        learner: Holds the network and its task.
        data: Whose test set.
        transform: For evaluation.
        batch_size: Samples at a time; does not change the result, but for rounding where outputs are not kept.
        workers: Processes that read the data.
    """
    if data.test is None:
        return None
    batches = evaluation_batches(
        data.test,
        batch_size=batch_size,
        transform=transform,
        device=learner.device,
        rank=rank(),
        world_size=world_size(),
        workers=workers,
        weighted=True,
    )
    task, seen = learner.task, _Seen(learner, size_of(data.test))
    for inputs, targets in batches:
        seen.add(learner.predict(inputs), targets)
    if seen.nothing:  # there are fewer samples than processes, and shapes must be known on each
        inputs, targets = first_batch(data.test, samples=1, transform=transform, device=learner.device)
        seen.add(map_tensors(learner.predict(inputs), _no_rows), targets[:0])
    outputs, targets = seen.gathered()
    by_outputs = task.shows == "classes" and loss_kind(task.loss).of_classes and sample_weights_of(data.test) is None
    if outputs is not None and by_outputs:
        loss = float(loss_on(task.loss, outputs.device, torch.float64)(outputs.double(), targets))
    else:
        loss = seen.loss()
    counts = seen.counts
    if counts is not None and world_size() > 1:
        numbers = sum_over_ranks(counts.double().flatten().tolist())
        counts = torch.tensor(numbers).long().reshape(counts.shape)
    return Evaluation(
        loss=loss,
        metrics=seen.measure.over_ranks().values(),
        outputs=None if outputs is None or task.shows == "positions" else outputs.float(),
        targets=None if outputs is None or task.shows == "positions" else targets,
        counts=None if counts is None else counts.cpu(),
    )


class _Seen:
    """Outputs and targets of this process's part of a test set, as far as they are kept, and sums over the rest.

    Args:
        learner: Tells task and loss.
        samples: Of the whole test set.
    """

    def __init__(self, learner: Learner, samples: int) -> None:
        self._learner, self._samples = learner, samples
        self.measure = Measure(learner.task)
        self.counts: Tensor | None = None
        self._parts: list[tuple[Tensor, Tensor]] | None = []
        self._loss = in_parts(learner.loss)
        self._sums = torch.zeros(3, dtype=torch.float64)
        """Of the loss, of what it is divided by, and of batches that it is divided by nothing in."""

    @property
    def nothing(self) -> bool:
        """Whether no batch was added."""
        return self._parts == []

    def add(self, outputs: Any, targets: Any) -> None:
        """Add a batch."""
        if samples := count(targets):
            self._add_loss(outputs, targets)
        targets = plain_targets(targets)
        if samples:
            self.measure.add(outputs, targets)
        counts = self._learner.task.counts(outputs, targets)
        if counts is not None:
            self.counts = counts if self.counts is None else self.counts + counts
        if self._parts is not None:
            self._parts.append((outputs, targets))
            if not self._can_be_kept():
                self._parts = None

    def _can_be_kept(self) -> bool:
        assert self._parts is not None
        outputs, targets = self._parts[-1]
        first = self._parts[0]
        return (
            isinstance(outputs, Tensor)
            and isinstance(targets, Tensor)
            and (outputs.shape[1:], targets.shape[1:]) == (first[0].shape[1:], first[1].shape[1:])
            and self._samples * outputs[:1].numel() <= _MOST_KEPT
        )

    def _add_loss(self, outputs: Any, targets: Any) -> None:
        with torch.no_grad():
            denominator = self._loss.denominator(targets)
            loss = float(self._loss(outputs, targets))
            self._sums += torch.tensor([loss, float(denominator or 0.0), float(denominator is None)])

    def loss(self) -> float:
        """Return the loss of all samples of all processes."""
        total, divisor, undivided = sum_over_ranks(self._sums.tolist())
        return total if undivided else total / divisor

    def gathered(self) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Return outputs and targets of all processes on the CPU; None where one of them has not kept them."""
        parts = (part_of(self._samples, r, world_size()) for r in range(world_size()))
        counts = [end - first for first, end in parts]
        if sum_over_ranks([float(self._parts is not None)])[0] < world_size():
            return None, None
        assert self._parts is not None
        outputs, targets = (torch.cat(columns) for columns in zip(*self._parts, strict=True))
        return gather_rows(outputs, counts).cpu(), gather_rows(targets, counts).cpu()


def _no_rows(tensor: Tensor) -> Tensor:
    return tensor[:0]


def worst_images(data: Data, evaluation: Evaluation, *, most: int = 16) -> dict[str, Tensor] | None:
    """Return the test images that were classified wrongly with the greatest confidence, most confident first.

    Returns:
        `images` (N, C, H, W) uint8, `targets` (N,), `predicted` (N,) and `confidence` (N,) float32, with N at most
        `most`; None where the inputs are not images.
    """
    if not data.channels or data.test is None or evaluation.outputs is None or evaluation.targets is None:
        return None
    targets = evaluation.targets.argmax(1) if evaluation.targets.is_floating_point() else evaluation.targets
    confidence, predicted = evaluation.outputs.softmax(1).max(1)
    wrong = (predicted != targets).nonzero().flatten()
    order = confidence[wrong].argsort(descending=True, stable=True)[:most]
    worst = wrong[order]
    if len(worst):
        batches: Iterator[Any] = evaluation_batches(data.test, batch_size=most, indices=worst)
        images = torch.cat([inputs for inputs, _ in batches])
    else:
        images = torch.zeros(0, data.channels, data.image_size, data.image_size)
    return {
        "images": _pixels(images),
        "targets": targets[worst],
        "predicted": predicted[worst],
        "confidence": confidence[worst],
    }


def mask_pictures(data: Data, learner: Learner, *, transform: ImageTransform | None) -> dict[str, Tensor] | None:
    """Return the first test images with their true and predicted masks.

    Returns:
        `images` (N, C, H, W) uint8, `targets` and `predicted` (N, H, W) int64, with N at most 8; None where there is
        no test set, or the inputs are no grey or coloured images of the masks' size.
    """
    if data.test is None or data.channels not in (1, 3):
        return None
    images, targets = first_batch(data.test, samples=_MOST_PICTURES)
    inputs, _ = first_batch(data.test, samples=_MOST_PICTURES, transform=transform, device=learner.device)
    predicted = learner.task.read(learner.predict(inputs)).cpu()
    if predicted.shape != targets.shape or images.shape[2:] != targets.shape[1:]:
        return None
    return {"images": _pixels(images), "targets": targets.long(), "predicted": predicted.long()}


def _pixels(images: Tensor) -> Tensor:
    """Return images as bytes; those with a fraction are taken to be in [0, 1]."""
    return (images * 255).round().clamp(0, 255).to(torch.uint8) if images.is_floating_point() else images
