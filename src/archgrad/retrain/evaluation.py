"""The test set, looked at: loss, accuracy, predictions, and the images that were got most wrong."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from archgrad.data import Data, ImageTransform, evaluation_batches
from archgrad.data.batch_sampler import part_of
from archgrad.data.samples import size_of
from archgrad.distributed import gather_rows, rank, world_size
from archgrad.retrain.learner import Learner

__all__ = ["Evaluation", "evaluate", "worst_images"]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a network makes of a test set."""

    loss: float
    """Mean cross-entropy, without label smoothing."""
    accuracy: float
    """Share of the samples that are classified rightly, 0 to 1."""
    logits: Tensor
    """(N, classes) float32, on the CPU."""
    targets: Tensor
    """(N,) int64, on the CPU."""


def evaluate(
    learner: Learner, data: Data, *, transform: ImageTransform | None, batch_size: int, workers: int
) -> Evaluation | None:
    """Evaluate a network on the test set, each process on its part; None where the data has none.

    Every process returns the same, logits of all samples included.

    Args:
        learner: Holds the network.
        data: Whose test set.
        transform: For evaluation.
        batch_size: Samples at a time; does not change the result.
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
    )
    parts = [(learner.predict(inputs), targets) for inputs, targets in batches]
    # A process has no part where there are fewer samples than processes.
    none = (
        torch.zeros(0, len(data.classes), dtype=learner.dtype, device=learner.device),
        torch.zeros(0, dtype=torch.int64, device=learner.device),
    )
    logits, targets = (torch.cat(columns) for columns in zip(none, *parts, strict=True))
    counts = [end - first for first, end in (part_of(size_of(data.test), r, world_size()) for r in range(world_size()))]
    logits, targets = gather_rows(logits, counts).cpu(), gather_rows(targets, counts).cpu()
    return Evaluation(
        loss=float(F.cross_entropy(logits.double(), targets)),
        accuracy=int((logits.argmax(1) == targets).sum()) / len(targets),
        logits=logits.float(),
        targets=targets,
    )


def worst_images(data: Data, evaluation: Evaluation, *, most: int = 16) -> dict[str, Tensor] | None:
    """Return the test images that were classified wrongly with the greatest confidence, most confident first.

    Returns:
        `images` (N, C, H, W) uint8, `targets` (N,), `predicted` (N,) and `confidence` (N,) float32, with N at most
        `most`; None where the inputs are not images.
    """
    if not data.channels or data.test is None:
        return None
    confidence, predicted = evaluation.logits.softmax(1).max(1)
    wrong = (predicted != evaluation.targets).nonzero().flatten()
    order = confidence[wrong].argsort(descending=True, stable=True)[:most]
    worst = wrong[order]
    if len(worst):
        batches = evaluation_batches(data.test, batch_size=most, indices=worst)
        images = torch.cat([inputs for inputs, _ in batches])
    else:
        images = torch.zeros(0, data.channels, data.image_size, data.image_size)
    if images.is_floating_point():
        images = (images * 255).round().clamp(0, 255).to(torch.uint8)
    return {
        "images": images,
        "targets": evaluation.targets[worst],
        "predicted": predicted[worst],
        "confidence": confidence[worst],
    }
