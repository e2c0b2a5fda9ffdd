"""Image files or samples in, predictions out, by an ONNX model or by the network of a run."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from archgrad.batches import count, prepare
from archgrad.data import Augmentation, Data, ImageTransform, TensorSamples, as_data, evaluation_batches, load
from archgrad.data.decode import LARGEST_SIDE, decode
from archgrad.data.listing import StoredImage
from archgrad.data.table_file import is_table
from archgrad.data.text import encode_text
from archgrad.errors import DataError, ExportError, OptionError
from archgrad.export.description import ModelDescription, description_beside
from archgrad.export.load import Weights, describe_run, load_retrained
from archgrad.export.session import METADATA_KEY, OnnxSession
from archgrad.json_text import shown
from archgrad.nested import map_tensors
from archgrad.paths import from_home
from archgrad.typed_names import TEXT

__all__ = ["Prediction", "model_description", "predict", "predict_samples"]

_BATCH = 64
_BATCH_NUMBERS = 2**24  # 64 MB
_UNPICKLED = (".pt2", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a model makes of one image or sample.

    Attributes:
        image: The file, or the number of the sample in its data.
        classes: Names of the likeliest classes, likeliest first; of several labels those that are taken.
        probabilities: Their probabilities, 0 to 1.
        values: What a regression predicts, or the probability of each label, in the order of the names.
        positions: Class number at each position, (H, W) of an image or (T,) of a sequence; None of anything else.
    """

    image: str
    classes: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    values: tuple[float, ...] = ()
    positions: Tensor | None = field(default=None, compare=False)


def predict(
    model: str | os.PathLike[str],
    images: Sequence[str | os.PathLike[str]],
    *,
    top: int = 5,
    weights: Weights = "last",
    space: nn.Module | None = None,
) -> list[Prediction]:
    """Predict image files.

    Images of any size and colour are brought to the network's height, width, channels and bits as those of class
    folders were for the training (see `archgrad.data.load`): cropped, squashed or padded, resized, normalised.

    Args:
        model: An .onnx file that `export_onnx` wrote, described by the JSON file beside it, or by its own metadata if
            there is none; or the run folder of a retraining. Neither is unpickled. Exported programs (.pt2) are
            refused, because reading them can run code.
        images: The files; JPEG, PNG, BMP, GIF (first picture), WebP, PPM or TIFF.
        top: How many classes to tell, at least 1; all of them where there are fewer, or where the model tells no
            classes.
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
    opened = _opened(model, top=top, weights=weights, space=space)
    description, shape = opened.description, opened.description.input_shape
    if not description.is_image or max(shape[1:]) > LARGEST_SIDE:
        raise ExportError(
            f"{opened.where} takes {description.input_dtype} inputs of shape {shape}, not images of 1 or 3 channels "
            f"and at most {LARGEST_SIDE} pixels a side, so image files cannot be brought to it. Give samples "
            f"(predict_samples, --data), or call the network itself with such inputs."
        )
    transform = _transform(description)
    found: list[Prediction] = []
    batch = description.batch_size or max(1, min(_BATCH, _BATCH_NUMBERS // math.prod(shape)))
    for start in range(0, len(images), batch):
        names = [os.fspath(image) for image in images[start : start + batch]]
        pixels = torch.stack([_pixels(name, description) for name in names])
        found += opened.predict(names, transform(pixels, None), top=top)
    return found


def predict_samples(
    model: str | os.PathLike[str],
    data: Data | Any,
    *,
    top: int = 5,
    weights: Weights = "last",
    space: nn.Module | None = None,
) -> list[Prediction]:
    """Predict the test samples of data, or all samples where it has no test set; targets are not looked at.

    Of a model that learnt from a table, a table's file is predicted row by row, whole; it needs no target. Of one that
    learnt from a text, a text is predicted window by window, whole: at each position the likeliest next token.

    Args:
        model: As for `predict`.
        data: Whatever `archgrad.retrain` takes. Images are normalised as for the training. Those of "folder:PATH", and
            rows of a table's file, become inputs as those of the training did.
        top: As for `predict`.
        weights: Of a run folder, as in `load_retrained`.
        space: Of a run folder, as in `load_retrained`.

    Returns:
        One prediction a sample, in order; the sample's number is its `image`.

    Raises:
        DataError: The data cannot be read.
        ExportError: The model cannot be used, or takes no such samples.
        RunError: The run folder cannot be used.
        OptionError: An option is outside its range, or onnxruntime is missing.
    """
    opened = _opened(model, top=top, weights=weights, space=space)
    description = opened.description
    data = _like_training(data, description, opened.where)
    if data.channels and description.is_image and data.channels != description.input_shape[0]:
        raise ExportError(
            f"{opened.where} takes images of {description.input_shape[0]} channels, but those of {data.name!r} have "
            f"{data.channels}. Give folder:PATH or image files, which are brought to them, or convert the images."
        )
    transform = _transform(description) if data.channels else None
    batches = evaluation_batches(
        data.train if data.test is None else data.test,
        batch_size=description.batch_size or _BATCH,
        transform=transform,
    )
    found: list[Prediction] = []
    for inputs, _ in batches:
        names = [str(len(found) + number) for number in range(count(inputs))]
        found += opened.predict(names, prepare(inputs, dtype=torch.float32, channels_last=False), top=top)
    return found


def _transform(description: ModelDescription) -> ImageTransform:
    """Return what makes the network's inputs of images: the central part where they are read larger, normalised."""
    side = 0 if description.read_size is None else description.channels_and_size[1]
    return ImageTransform(augmentation=Augmentation(resized_crop=side), mean=description.mean, std=description.std)


def _like_training(data: Any, description: ModelDescription, where: str) -> Data:
    """Return data of a name as the network's training data was made of its own; anything else as it is."""
    if not isinstance(data, str | os.PathLike):
        return as_data(data)
    name = os.fspath(data)
    if is_table(name):
        if description.encoding is None:
            raise ExportError(
                f"{where} does not tell how rows of a table become its inputs, so {shown(name)} cannot be predicted. "
                f"Retrain the network on a table, or give its inputs themselves."
            )
        rows = description.encoding.encode(from_home(name))
        return Data.from_datasets(TensorSamples(rows, torch.zeros(len(rows))), name=name)
    if name.startswith(TEXT):
        shape = description.input_shape
        if description.shows != "positions" or description.input_dtype != "int64" or len(shape) != 1:
            raise ExportError(f"{where} takes no tokens of a text, so {shown(name)} cannot be predicted.")
        return Data.from_datasets(encode_text(from_home(name.removeprefix(TEXT)), description.classes, shape[0]))
    if name.startswith("folder:") and description.is_image:
        channels, height, width = description.input_shape
        size = description.read_size or (height, width)
        return load(name, image_size=size, channels=channels, fit=description.fit)
    return as_data(name)


class _Model:
    """A model of either kind.

    Args:
        function: Inputs to outputs.
        description: Of the model.
        where: What to call it in messages.
    """

    def __init__(self, function: Callable[[Any], Any], description: ModelDescription, where: str) -> None:
        self._function, self.description, self.where = function, description, where

    def predict(self, names: Sequence[str], inputs: Any, *, top: int) -> list[Prediction]:
        """Return a prediction for each sample of a batch."""
        fixed = self.description.batch_size
        if fixed is not None and len(names) < fixed:  # the last one, over again
            places = torch.arange(fixed).clamp(max=len(names) - 1)
            inputs = map_tensors(inputs, lambda tensor: tensor[places])
        with torch.no_grad():
            output = self._function(inputs)
        output = output[0] if isinstance(output, tuple | list) else output
        output = output[: len(names)] if isinstance(output, Tensor) and output.dim() else output
        self._check(output, len(names))
        return [self._prediction(name, row, top) for name, row in zip(names, output, strict=True)]

    def _check(self, output: Any, samples: int) -> None:
        shape, names = tuple(getattr(output, "shape", ())), len(self.description.classes)
        known = {"classes": (samples, names), "labels": (samples, names), "positions": (samples, names, *shape[2:])}
        expected = known.get(self.description.shows, (samples, *shape[1:]))
        if shape != expected or (self.description.shows == "positions" and len(shape) < 3):
            raise ExportError(
                f"{self.where} gives outputs of shape {shown(shape)} for {samples} images, but its description names "
                f"{names} classes. Export the network again."
            )

    def _prediction(self, name: str, output: Tensor, top: int) -> Prediction:
        shows, classes = self.description.shows, self.description.classes
        if shows == "positions":
            return Prediction(image=name, positions=output.argmax(0))
        if shows == "values":
            return Prediction(image=name, values=tuple(output.double().flatten().tolist()))
        if shows == "labels":
            shares = output.double().sigmoid()
            threshold = (self.description.task or {}).get("threshold", 0.5)
            taken = [k for k in shares.argsort(descending=True, stable=True).tolist() if shares[k] >= threshold]
            return Prediction(
                image=name,
                classes=tuple(classes[k] for k in taken),
                probabilities=tuple(float(shares[k]) for k in taken),
                values=tuple(shares.tolist()),
            )
        shares, order = output.double().softmax(0).sort(descending=True, stable=True)
        return Prediction(
            image=name,
            classes=tuple(classes[index] for index in order[:top].tolist()),
            probabilities=tuple(shares[:top].tolist()),
        )


def _opened(model: str | os.PathLike[str], *, top: int, weights: Weights, space: nn.Module | None) -> _Model:
    if top < 1:
        raise OptionError(f"top must be at least 1, but got {top}.")
    path = Path(model)
    if path.is_dir():
        description = describe_run(path)
        return _Model(load_retrained(path, weights=weights, space=space), description, f"'{path}'")
    if weights != "last" or space is not None:
        raise OptionError(f"weights and space go with a run folder, but '{path}' is none. Leave them out.")
    return _Model(*_open_onnx(path), f"'{path}'")


def model_description(model: str | os.PathLike[str]) -> ModelDescription:
    """Return the description of a model, as `predict` takes it; raises what `predict` does."""
    path = Path(model)
    return describe_run(path) if path.is_dir() else _described(path, None)


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
    return session, _described(path, session)


def _described(path: Path, session: OnnxSession | None) -> ModelDescription:
    """Return the description beside a model, or in it."""
    beside = description_beside(path)
    if beside.is_file():
        return ModelDescription.load(beside)
    session = OnnxSession(str(path), where=f"'{path}'") if session is None else session
    if METADATA_KEY not in session.metadata:
        raise ExportError(
            f"Nothing tells the classes and normalisation of '{path}': there is no '{beside.name}' beside it, and it "
            f"says nothing itself. Name a model that `archgrad export --onnx` wrote."
        )
    return ModelDescription.from_json(session.metadata[METADATA_KEY], where=f"The description in '{path}'")


def _pixels(name: str, description: ModelDescription) -> Tensor:
    file = Path(name)
    if not file.is_file():
        raise DataError(f"{name} is no file. Name image files.")
    channels, height, width = description.input_shape
    pixels, _ = decode(
        StoredImage(file, name, 0, 0, 0),
        image_size=description.read_size or (height, width),
        channels=channels,
        bits=description.bits,
        fit=description.fit,
    )
    return torch.from_numpy(pixels)
