"""A network with everything that a retraining has to handle, and data to train it on in a moment."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from archgrad.data import Augmentation, Data, TensorSamples
from archgrad.operations import DropPath
from archgrad.tasks import Classification, Task

CLASSES = 3


class SmallNetwork(nn.Module):
    """Convolution, BatchNorm, a residual path that may be dropped, dropout, and an auxiliary head."""

    def __init__(self, *, auxiliary: bool = True, channels: int = 1, classes: int = CLASSES) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4))
        self.path = nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.BatchNorm2d(4))
        self.drop_path = DropPath()
        self.dropout = nn.Dropout(0.1)
        self.classifier = nn.Linear(4 * 36, classes)
        self.auxiliary_head = nn.Linear(4 * 36, classes) if auxiliary else None

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        auxiliary_logits = self.auxiliary_head(x.flatten(1)) if self.auxiliary_head is not None else None
        x = x + self.drop_path(self.path(x))
        logits = self.classifier(self.dropout(x.flatten(1)))
        return (logits, auxiliary_logits) if self.training and auxiliary_logits is not None else logits


def classification(classes: int) -> Task:
    return Classification().fitted(torch.arange(classes), [str(number) for number in range(classes)])


def small_network(**options: Any) -> SmallNetwork:
    torch.manual_seed(3)
    return SmallNetwork(**options)


def small_images(train: int = 44, test: int | None = 20, *, seed: int = 0) -> Data:
    """Images of 6x6 whose bright third tells the class; 44 of them are 5 batches of 8 and one of 4."""
    generator = torch.Generator().manual_seed(seed)

    def samples(count: int) -> TensorSamples:
        targets = torch.arange(count) % CLASSES
        images = torch.randint(0, 90, (count, 1, 6, 6), generator=generator, dtype=torch.uint8)
        for index, target in enumerate(targets.tolist()):
            images[index, :, 2 * target : 2 * target + 2] += 60
        return TensorSamples(images, targets)

    return Data.from_datasets(
        samples(train),
        None if test is None else samples(test),
        classes=["top", "middle", "bottom"],
        name="bars",
        augmentation=Augmentation(crop_padding=1, flip=True),
    )
