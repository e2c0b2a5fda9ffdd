"""Masks of a segmentation as image files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from archgrad.errors import ExportError, RunError
from archgrad.export.predict import Prediction
from archgrad.files import atomic_write
from archgrad.report.outcome_sections import mask_pixels

__all__ = ["save_masks"]

_MOST_CLASSES = 256


def save_masks(predictions: Sequence[Prediction], folder: str | os.PathLike[str]) -> list[Path]:
    """Write the mask of each image as a PNG of one byte a pixel, the class number, with a palette of colours.

    Args:
        predictions: Of a segmentation.
        folder: Made if it is not there; files are called as the images, and numbered where two are called alike.

    Returns:
        The files, in order.

    Raises:
        ExportError: The predictions are no masks, or have more than 256 classes.
        RunError: A file cannot be written.
    """
    place, written = Path(folder), []
    taken: set[str] = set()
    try:
        place.mkdir(parents=True, exist_ok=True)
        for prediction in predictions:
            mask = prediction.positions
            if mask is None or mask.dim() != 2 or int(mask.max()) >= _MOST_CLASSES:
                raise ExportError(
                    "Masks are of segmentations with at most 256 classes, but the model predicts something else. "
                    "Leave --masks out."
                )
            stem = name = Path(prediction.image).stem or "mask"
            number = 2
            while name in taken:
                name, number = f"{stem}-{number}", number + 1
            taken.add(name)
            written.append(_saved(place / f"{name}.png", mask.numpy().astype(np.uint8)))
    except OSError as error:
        raise RunError(f"The masks cannot be written to '{place}': {error.strerror}. Name another folder.") from error
    return written


def _saved(path: Path, mask: np.ndarray) -> Path:
    from PIL import Image  # here, as few predictions write masks

    picture = Image.new("P", (mask.shape[1], mask.shape[0]))
    picture.putdata(mask.flatten().tolist())
    picture.putpalette(mask_pixels(np.arange(_MOST_CLASSES)[None]).flatten().tolist())
    with atomic_write(path) as file:
        picture.save(file, format="PNG")
    return path
