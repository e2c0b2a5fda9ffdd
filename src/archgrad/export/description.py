"""What a program must know of an exported network besides the file itself: its inputs, and what its outputs say."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from archgrad.checks import check_real, check_word, is_whole
from archgrad.data.decode import FITS, LARGEST_SIDE, Fit
from archgrad.data.table_encoding import TableEncoding
from archgrad.errors import ArchitectureError, ExportError, OptionError
from archgrad.export.inputs import TensorInput, is_sizes, nested_inputs, tensor_inputs
from archgrad.files import read_explained, write_text
from archgrad.json_text import MAX_TEXT_BYTES, parse_json, shown

__all__ = ["ModelDescription", "TensorOutput", "description_beside"]

_FORMAT = "archgrad.model"
_ONE_TENSOR, _SEVERAL, _OF_A_TASK, _OF_FILES, _OF_CENTRES = 1, 2, 3, 4, 5  # versions
_SHOWS = ("classes", "labels", "values", "positions")


class TensorOutput(NamedTuple):
    """One tensor among the outputs of a network."""

    name: str
    shape: tuple[int, ...]
    """Of one sample, without the batch."""


@dataclass(frozen=True, kw_only=True)
class ModelDescription:
    """Inputs and outputs of an exported network.

    Raises:
        OptionError: A value is outside its range, or does not go with the others.

    Attributes:
        classes: Name of each class, label or value that the network gives: of the columns or channels of its outputs.
        input_shape: Of one sample, without the batch: (C, H, W) for images. Where the network takes several tensors, a
            tuple or dict of such, nested as they are.
        input_dtype: "float32", "int64", "int32", "uint8" or "bool", for all tensors or nested as they are.
        mean: Subtracted from each channel of an image with pixels in [0, 1]; empty for no normalisation.
        std: What each channel is divided by afterwards.
        task: Name of what the network has learnt, what its outputs show ("classes", "labels", "values" or a class at
            each of several "positions"), and further settings, as `archgrad.tasks.Task.described` gives them; None is a
            classification.
        outputs: The tensors that the network gives; empty where it is the logits alone.
        batch_size: The only number of samples that the file takes at once; None where it takes any.
        fit: How an image file of another shape becomes one of the network's: "crop", "squash" or "pad" (see
            `archgrad.data.load`).
        bits: Of a channel of a pixel, which image files are brought to before they are numbers: 8 or 16.
        encoding: How rows of a table become inputs; None where they are none of a table.
        read_size: Height and width that an image file is brought to before its central part, of the height and width of
            the inputs, is taken; None where it is brought to those of the inputs themselves.
    """

    classes: tuple[str, ...]
    input_shape: Any
    input_dtype: Any = "float32"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    task: Mapping[str, Any] | None = None
    outputs: tuple[TensorOutput, ...] = ()
    batch_size: int | None = None
    fit: Fit = "crop"
    bits: int = 8
    encoding: TableEncoding | None = None
    read_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        self._check_task()
        self._check_files()
        if not self.classes or not all(isinstance(name, str) for name in self.classes):
            raise OptionError(f"classes must be at least one name, but got {shown(self.classes)}.")
        tensor_inputs(self.input_shape, self.input_dtype)
        sizes = self.input_shape
        channels = self.channels_and_size[0] if self.input_dtype == "float32" else 0
        if len(self.mean) != len(self.std) or (self.mean and len(self.mean) != channels):
            raise OptionError(
                f"mean and std are one number each per channel of an image (C, H, W), but there are {len(self.mean)} "
                f"and {len(self.std)} for inputs of shape {sizes}. Give both for each channel, or neither."
            )
        numbers = all(
            isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            for value in (*self.mean, *self.std)
        )
        if not numbers or not all(value > 0 for value in self.std):
            raise OptionError(f"mean must be finite and std above 0, but got {shown(self.mean)} and {shown(self.std)}.")

    def _check_task(self) -> None:
        task = self.task
        if task is not None and (not isinstance(task, Mapping) or task.get("shows") not in _SHOWS):
            raise OptionError(f"The task must tell its name and what it shows, but got {shown(task)}.")
        if task is not None:
            check_real("threshold", task.get("threshold", 0.5))
        if self.batch_size is not None and not is_whole(self.batch_size, least=1):
            raise OptionError(f"batch_size must be a whole number of at least 1, but got {shown(self.batch_size)}.")

    def _check_files(self) -> None:
        check_word("fit", self.fit, FITS)
        if not is_whole(self.bits, least=8) or self.bits not in (8, 16):
            raise OptionError(f"bits of an image file's pixels must be 8 or 16, but got {shown(self.bits)}.")
        if (self.fit, self.bits) != ("crop", 8) and not self.channels_and_size[0]:
            raise OptionError(
                f"fit and bits say how image files become inputs, but inputs of shape {shown(self.input_shape)} are no "
                f"images. Leave them out."
            )
        self._check_read_size()
        if self.encoding is not None and self.features != len(self.encoding.inputs):
            raise OptionError(
                f"A table of {len(self.encoding.inputs)} inputs does not become inputs of shape "
                f"{shown(self.input_shape)}. Give the encoding of the table that the network learnt from."
            )

    def _check_read_size(self) -> None:
        if (size := self.read_size) is None:
            return
        side = self.channels_and_size[1]
        square = bool(side) and self.input_shape[1:] == (side, side)
        if not square or len(size) != 2 or not all(is_whole(s, least=side) and s <= LARGEST_SIDE for s in size):
            raise OptionError(
                f"read_size must be the height and width of images that hold the square inputs, at most "
                f"{LARGEST_SIDE}, but got {shown(size)} and inputs of shape {shown(self.input_shape)}."
            )

    @property
    def shows(self) -> str:
        """What the outputs show: "classes", "labels", "values" or "positions"."""
        return "classes" if self.task is None else str(self.task["shows"])

    @property
    def is_plain(self) -> bool:
        """Whether it is a classifier with logits alone and batches of any size, as all were at first."""
        return self.shows == "classes" and not self.outputs and self.batch_size is None

    @property
    def inputs(self) -> tuple[TensorInput, ...]:
        """The tensors that the network takes, in order."""
        return tuple(tensor_inputs(self.input_shape, self.input_dtype))

    @property
    def is_image(self) -> bool:
        """Whether one sample is a grey or coloured image."""
        return self.input_dtype == "float32" and self.channels_and_size[0] in (1, 3)

    @property
    def channels_and_size(self) -> tuple[int, int]:
        """Channels and height where one sample is a single (C, H, W), else 0 and 0."""
        shape = self.input_shape
        return (shape[0], shape[1]) if is_sizes(shape) and len(shape) == 3 else (0, 0)

    @property
    def features(self) -> int:
        """Length of a sample that is one vector of numbers with a fraction, else 0."""
        return self._first_size(dims=1)

    @property
    def sensors(self) -> int:
        """Channels of a sample that is a series (sensors, time) of numbers with a fraction, else 0."""
        return self._first_size(dims=2)

    def _first_size(self, *, dims: int) -> int:
        shape = self.input_shape
        return shape[0] if is_sizes(shape) and len(shape) == dims and self.input_dtype == "float32" else 0

    def to_json(self) -> str:
        """Return the text of a description file."""
        of_files = self._of_files()
        one, batch = self.is_plain and is_sizes(self.input_shape) and not of_files, self.batch_size or "batch"
        inputs = [
            {"name": each.name}
            | ({} if one else {"place": list(each.place)})
            | {"shape": [batch, *each.shape], "dtype": each.dtype}
            for each in self.inputs
        ]
        outputs = [{"name": each.name, "shape": [batch, *each.shape], "dtype": "float32"} for each in self.outputs]
        logits = {"name": "logits", "shape": [batch, len(self.classes)], "dtype": "float32"}
        content = {
            "format": _FORMAT,
            "version": _ONE_TENSOR if one else self._version,
            **({"input": inputs[0]} if one else {"inputs": inputs}),
            **({"output": logits} if self.is_plain else {"outputs": outputs or [logits], "task": self.task}),
            "normalisation": {"pixels": [0, 1], "mean": list(self.mean), "std": list(self.std)} if self.mean else None,
            "classes": list(self.classes),
            **of_files,
        }
        return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @property
    def _version(self) -> int:
        if of_files := self._of_files():
            return _OF_CENTRES if "read_size" in of_files else _OF_FILES
        return _SEVERAL if self.is_plain else _OF_A_TASK

    def _of_files(self) -> dict[str, Any]:
        """Return what files say of files; nothing where images are cropped to 8 bits, as all were at first."""
        images: dict[str, Any] = {"fit": self.fit, "bits": self.bits} if (self.fit, self.bits) != ("crop", 8) else {}
        images |= {} if self.read_size is None else {"read_size": list(self.read_size)}
        return images | ({} if self.encoding is None else {"table": self.encoding.to_plain()})

    @classmethod
    def from_json(cls, text: str, *, where: str) -> ModelDescription:
        """Read what `to_json` wrote.

        Args:
            text: Of anyone's making.
            where: What to call it in messages.

        Raises:
            ExportError: It is no description of a model.
        """
        try:
            content = parse_json(text)
            if not isinstance(content, dict) or content.get("format") != _FORMAT:
                raise ExportError(f"{where} does not describe a model of archgrad. Name a file that export wrote.")
            if content.get("version") not in (_ONE_TENSOR, _SEVERAL, _OF_A_TASK, _OF_FILES, _OF_CENTRES):
                raise ExportError(
                    f"{where} has version {shown(content.get('version'))}, and this archgrad reads {_ONE_TENSOR} to "
                    f"{_OF_CENTRES}. Update archgrad, or export again."
                )
            return cls._from_content(content)
        except (ArchitectureError, OptionError, KeyError, TypeError, ValueError) as error:
            reason = f"'{error.args[0]}' is missing" if isinstance(error, KeyError) else error
            raise ExportError(f"{where} is damaged: {reason} Export the network again.") from error

    @classmethod
    def _from_content(cls, content: dict[str, Any]) -> ModelDescription:
        normalisation = content["normalisation"] or {"mean": [], "std": []}
        inputs = [content["input"] | {"place": []}] if content["version"] == _ONE_TENSOR else content["inputs"]
        input_shape, input_dtype = nested_inputs([{**each, "shape": each["shape"][1:]} for each in inputs])
        return cls.of_lists(
            classes=content["classes"],
            input_shape=input_shape,
            input_dtype=input_dtype,
            mean=normalisation["mean"],
            std=normalisation["std"],
            task=content.get("task"),
            outputs=content.get("outputs", []),
            fit=content.get("fit", "crop"),
            bits=content.get("bits", 8),
            table=content.get("table"),
            read_size=content.get("read_size"),
        )

    @classmethod
    def of_lists(
        cls,
        *,
        classes: Any,
        input_shape: Any,
        input_dtype: Any,
        mean: Any,
        std: Any,
        task: Any = None,
        outputs: Any = (),
        fit: Any = "crop",
        bits: Any = 8,
        table: Any = None,
        read_size: Any = None,
    ) -> ModelDescription:
        """Make a description of what a JSON text says, of anyone's making.

        Raises:
            OptionError: Something is no list, or breaks a rule.
        """
        lists = {"classes": classes, "mean": mean, "std": std}
        for name, value in (lists if read_size is None else {**lists, "read_size": read_size}).items():
            if not isinstance(value, list):
                raise OptionError(f"{name} must be a list, but is {shown(value)}.")
        tensors: list[TensorOutput] = []
        batches: set[Any] = set()
        for each in outputs:
            if not isinstance(each, Mapping) or not isinstance(each.get("shape"), list) or not each["shape"]:
                raise OptionError(f"Each output must have name and shape, but got {shown(each)}.")
            tensors.append(TensorOutput(str(each.get("name")), tuple(each["shape"][1:])))
            batches.add(each["shape"][0])
        batch: Any = next(iter(batches)) if len(batches) == 1 else "batch"
        return cls(
            classes=tuple(classes),
            input_shape=input_shape,
            input_dtype=input_dtype,
            mean=tuple(mean),
            std=tuple(std),
            task=task,
            outputs=tuple(tensors),
            batch_size=None if batch == "batch" else batch,
            fit=fit,
            bits=bits,
            encoding=None if table is None else TableEncoding.from_plain(table),
            read_size=None if read_size is None else tuple(read_size),
        )

    @classmethod
    def load(cls, path: Path) -> ModelDescription:
        """Read a description file.

        Raises:
            ExportError: It is no description of a model.
            RunError: It cannot be read.
        """
        content = read_explained(path, most=MAX_TEXT_BYTES)
        return cls.from_json(content.decode("utf-8", errors="replace"), where=f"'{path}'")

    def save(self, path: Path) -> None:
        """Write a description file, over an earlier one but not over anything else.

        Raises:
            ExportError: There is another file of that name.
            RunError: It cannot be written.
        """
        self.check_free(path)
        write_text(path, self.to_json())

    @classmethod
    def check_free(cls, path: Path) -> None:
        """Refuse to write over a file that is no description, such as an architecture's JSON.

        Raises:
            ExportError: There is such a file.
        """
        if not path.exists():
            return
        try:
            cls.load(path)
        except ExportError as error:
            raise ExportError(
                f"The description of the model belongs in '{path}', but that is another file, which would be lost. "
                f"Give the model another name."
            ) from error


def description_beside(model: Path) -> Path:
    """Return where the description of a model file lies: the same name, ending in .json."""
    return model.with_suffix(".json")
