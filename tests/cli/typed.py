"""Commands as typed, and data to type them on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

QUICK = (
    "--space", "tiny", "--channels", "2", "--train-samples", "100", "--epochs", "1", "--batch-size", "32", "--quiet",
)  # fmt: skip
"""Options of a search or retraining that takes a moment."""


@dataclass(frozen=True)
class Outcome:
    """What a person sees of a command."""

    status: int
    out: str
    err: str


Type = Callable[..., Outcome]


def class_folders(root: Path, *, classes: int = 2, images: int = 8, size: int = 8) -> Path:
    """Write `images` images of each class, dark to bright, into class folders."""
    draw = np.random.default_rng(0)
    for part in ("train", "test"):
        for number in range(classes):
            folder = root / part / f"class{number}"
            folder.mkdir(parents=True)
            for image in range(images):
                pixels = draw.integers(0, 60, (size, size, 3)) + 180 * number // classes
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{image}.png")
    return root


def content(folder: Path) -> dict[str, bytes]:
    """Return everything in a folder, to be compared."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
