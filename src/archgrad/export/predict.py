"""Image files in, classes out, by an ONNX model or by the network of a run."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from archgrad.data import ImageTransform
from archgrad.data.decode import LARGEST_SIDE, decode
from archgrad.data.listing import StoredImage
from archgrad.errors import DataError, ExportError, OptionError
from archgrad.export.description import ModelDescription, description_beside
from archgrad.export.load import Weights, describe_run, load_retrained
from archgrad.export.session import METADATA_KEY, OnnxSession
from archgrad.json_text import shown

__all__ = ["Prediction", "predict"]

_BATCH = 64
_BATCH_NUMBERS = 2**24  # 64 MB
_UNPICKLED = (".pt2", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a model makes of one image.

    Attributes:
        image: The file.
        classes: Names of the likeliest classes, likeliest first.
        probabilities: Their probabilities, 0 to 1: the softmax over all classes.
    """

    image: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]


def predict(
    model: str | os.PathLike[str],
    images: Sequence[str | os.PathLike[str]],
    *,
    top: int = 5,
    weights: Weights = "last",
    space: nn.Module | None = None,
) -> list[Prediction]:
    """Classify image files.

    Images of any size and colour are brought to the network's size and channels as class folders are (see
    `archgrad.data.load`): central square, resized, normalised as for the training.

    Args:
        model: An .onnx file that `export_onnx` wrote, described by the JSON file beside it, or by its own metadata if
            there is none; or the run folder of a retraining. Neither is unpickled. Exported programs (.pt2) are
            refused, because reading them can run code.
        images: The files; JPEG, PNG, BMP, GIF (first picture), WebP, PPM or TIFF.
        top: How many classes to tell, at least 1; all of them where there are fewer.
        weights: Of a run folder, as in `load_retrained`.
        space: Of a run folder, as in `load_retrained`.

    Returns:
        One prediction an image, in order.

    Raises:
        DataError: A file is no image, corrupt, or has too many pixels to be decoded.
        ExportError: The model cannot be used, or is none of images.
        RunError: The run folder cannot be used.
        OptionError: An option is outside its range, or onnxruntime is missing.
    """
    if top < 1:
        raise OptionError(f"top must be at least 1, but got {top}.")
    path = Path(model)
    if path.is_dir():
        description = describe_run(path)
        network = load_retrained(path, weights=weights, space=space)
        return _predict(network, description, images, top=top, where=f"'{path}'")
    if weights != "last" or space is not None:
        raise OptionError(f"weights and space go with a run folder, but '{path}' is none. Leave them out.")
    session, description = _open_onnx(path)
    return _predict(session, description, images, top=top, where=f"'{path}'")


def _open_onnx(path: Path) -> tuple[OnnxSession, ModelDescription]:
    if path.suffix.lower() in _UNPICKLED:
        raise ExportError(
            f"'{path}' is not read, because reading such a file unpickles it, which can run any code in it. Name an "
            f".onnx file or the run folder; a .pt2 of your own is read by torch.export.load."
        )
    if path.suffix.lower() != ".onnx" or not path.is_file():
        what = "is neither an .onnx file nor a run folder" if path.exists() else "does not exist"
        raise ExportError(f"The model '{path}' {what}. Name what `archgrad export --onnx` wrote, or a run folder.")
    session = OnnxSession(str(path), where=f"'{path}'")
    beside = description_beside(path)
    if beside.is_file():
        return session, ModelDescription.load(beside)
    if METADATA_KEY not in session.metadata:
        raise ExportError(
            f"Nothing tells the classes and normalisation of '{path}': there is no '{beside.name}' beside it, and it "
            f"says nothing itself. Name a model that `archgrad export --onnx` wrote."
        )
    return session, ModelDescription.from_json(session.metadata[METADATA_KEY], where=f"The description in '{path}'")


def _predict(
    logits_of: Callable[[Tensor], Tensor],
    description: ModelDescription,
    images: Sequence[str | os.PathLike[str]],
    *,
    top: int,
    where: str,
) -> list[Prediction]:
    shape = description.input_shape
    if not description.is_image or shape[1] != shape[2] or shape[1] > LARGEST_SIDE:
        raise ExportError(
            f"{where} takes {description.input_dtype} inputs of shape {shape}, not square images of 1 or 3 channels "
            f"and at most {LARGEST_SIDE} pixels a side, so image files cannot be brought to it. Call the network "
            f"itself with such inputs."
        )
    transform = ImageTransform(mean=description.mean, std=description.std)
    found: list[Prediction] = []
    batch = max(1, min(_BATCH, _BATCH_NUMBERS // math.prod(shape)))
    for start in range(0, len(images), batch):
        names = [os.fspath(image) for image in images[start : start + batch]]
        pixels = torch.stack([_pixels(name, image_size=shape[1], channels=shape[0]) for name in names])
        with torch.no_grad():
            output = logits_of(transform(pixels, None))
        logits = output[0] if isinstance(output, (tuple, list)) else output
        if not isinstance(logits, Tensor) or logits.shape != (len(names), len(description.classes)):
            raise ExportError(
                f"{where} gives outputs of shape {shown(tuple(getattr(logits, 'shape', ())))} for {len(names)} "
                f"images, but its description names {len(description.classes)} classes. Export the network again."
            )
        probabilities, order = logits.double().softmax(1).sort(dim=1, descending=True, stable=True)
        for name, row, indices in zip(names, probabilities[:, :top], order[:, :top], strict=True):
            classes = tuple(description.classes[index] for index in indices.tolist())
            found.append(Prediction(image=name, classes=classes, probabilities=tuple(row.tolist())))
    return found


def _pixels(name: str, *, image_size: int, channels: int) -> Tensor:
    file = Path(name)
    if not file.is_file():
        raise DataError(f"{name} is no file. Name image files.")
    pixels, _ = decode(StoredImage(file, name, 0, 0, 0), image_size=image_size, channels=channels)
    return torch.from_numpy(pixels)
