"""Folders that `save_to_disk` of Hugging Face's datasets wrote, read by pyarrow: images, rows of a table, or arrays."""

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from archgrad.data.dataset import Data
from archgrad.data.listing import Listing, StoredImage, chosen_splits, without_a_fifth
from archgrad.data.samples import TensorSamples
from archgrad.data.table_file import Table, named_columns
from archgrad.errors import ArchitectureError, DataError, OptionError, did_you_mean
from archgrad.files import read_file
from archgrad.json_text import MAX_TEXT_BYTES, parse_json, shown, shown_text

__all__ = ["SavedDataset", "is_saved_dataset"]

_OF_PARTS, _OF_ONE, _FACTS = "dataset_dict.json", "state.json", "dataset_info.json"


def is_saved_dataset(path: Path) -> bool:
    """Whether a folder is one that `save_to_disk` wrote."""
    # False where the name is too long, which is_file() raises
    return os.path.isfile(path / _OF_PARTS) or os.path.isfile(path / _OF_ONE)


@dataclass(frozen=True)
class _Part:
    """A split: its rows, file by file."""

    files: Sequence[Path]
    tables: Sequence[Any]
    """A `pyarrow.Table` of each file."""
    first_bytes: Sequence[int]
    """The address at which each file begins in memory."""

    def column(self, name: str) -> Any:
        """Return a column of all files, a `pyarrow.Array` without a type of its own."""
        import pyarrow

        chunks = [chunk for table in self.tables for chunk in table.column(name).chunks]
        chunks = [getattr(chunk, "storage", chunk) for chunk in chunks]
        return pyarrow.concat_arrays(chunks)


class SavedDataset:
    """A data set, or a dict of them, as `save_to_disk` wrote it; files are mapped into memory, not read.

    Args:
        path: The folder.
        target: Column that is to be predicted; the only one of class labels by default.

    Raises:
        DataError: A file is damaged, or the parts are not called train, test and the like.
        OptionError: pyarrow is missing, or which column is the target has to be said.
    """

    def __init__(self, path: Path, target: str | None) -> None:
        self.path = path
        folders = _folders(path)
        self._parts = {name: _opened(path, folder) for name, folder in folders.items()}
        self._columns = self._parts["train"].tables[0].column_names
        for part in self._parts.values():
            if any(table.column_names != self._columns for table in part.tables):
                raise DataError(f"The parts of {path} have different columns. Save them with the same.")
        features = _json(next(iter(folders.values())) / _FACTS).get("features")
        self._features = features if isinstance(features, Mapping) else {}
        self._images = [name for name in self._columns if self._kind(name) == "Image"]
        self.target = self._target(target)

    def _kind(self, name: str) -> Any:
        feature = self._features.get(name)
        return feature.get("_type") if isinstance(feature, Mapping) else None

    def _target(self, asked: str | None) -> str:
        labels = [name for name in self._columns if self._kind(name) == "ClassLabel"]
        if asked is None and len(labels) == 1:
            return labels[0]
        if asked is None:
            raise OptionError(
                f"{self.path} needs a column that is to be predicted. Give target=... (on the command line --target), "
                f"one of {', '.join(self._columns)}."
            )
        for name in [asked] if asked in self._columns else asked.split(","):
            if name.strip() not in self._columns:
                hint = did_you_mean(name, self._columns, cutoff=0.5)
                raise DataError(f"{self.path} has no column {shown(name)}.{hint} It has {', '.join(self._columns)}.")
        return asked

    @property
    def of_images(self) -> bool:
        """Whether there are images to learn from."""
        return bool(self._images)

    @property
    def of_arrays(self) -> bool:
        """Whether a column beside the target holds lists of numbers in each row."""
        types = self._parts["train"].tables[0].schema
        return any(_is_nested(getattr(field.type, "storage_type", field.type)) for field in types)

    # --- images -------------------------------------------------------------------------------------------------------

    def listing(self) -> Listing:
        """Return where the images are, which is within the files, and of which class.

        Raises:
            DataError: They have no classes, or are not stored here.
        """
        if len(self._images) != 1:
            raise DataError(f"{self.path} has several columns of images, {self._images}. Save one of them.")
        values = {name: self._labels(part) for name, part in self._parts.items()}
        classes = self._classes(values["train"])
        number = {label: place for place, label in enumerate(classes)}
        found: dict[str, Any] = {}
        for name, part in self._parts.items():
            images = list(self._stored(part))
            if strange := sorted({label for label in values[name] if label is not None and label not in number})[:5]:
                raise DataError(f"The {name} part of {self.path} has classes that the training lacks: {strange}.")
            kept = [row for row, label in enumerate(values[name]) if label is not None]
            if len(kept) < len(images):
                told = f"{len(images) - len(kept)} of {len(images)} images of the {name} part of {self.path}"
                warnings.warn(f"{told} have no class and are left out.", stacklevel=2)
            targets = torch.tensor([number[values[name][row]] for row in kept], dtype=torch.int64)
            found |= {name: [images[row] for row in kept], f"{name}_targets": targets}
        if not found.get("test"):
            train, test = without_a_fifth(found["train"], found["train_targets"])
            found["train"], found["train_targets"] = train
            found["test"], found["test_targets"] = test
        return Listing(classes=classes, **found)

    def _labels(self, part: _Part) -> list[Any]:
        """Return the class of each row as a text; None where there is none, which the Hub's test sets tell by -1."""
        values = part.column(self.target).to_pylist()
        if self._kind(self.target) == "ClassLabel":
            names = self._names()
            return [names[value] if value is not None and 0 <= value < len(names) else None for value in values]
        if any(not isinstance(value, str | int | None) for value in values):
            raise DataError(
                f"Images go with a class each, but {shown(self.target)} of {self.path} holds {shown(values[0])}. Give "
                f"another target, or a function of your own that returns the data."
            )
        return [None if value is None else str(value) for value in values]

    def _names(self) -> list[str]:
        names = self._features[self.target].get("names")
        if not isinstance(names, list) or not names:
            raise DataError(f"{_FACTS} of {self.path} does not name the classes of {shown(self.target)}. Save it anew.")
        return [str(name) for name in names]

    def _classes(self, seen: Sequence[Any]) -> tuple[str, ...]:
        present = {label for label in seen if label is not None}
        known = self._names() if self._kind(self.target) == "ClassLabel" else sorted(present)
        classes = tuple(name for name in known if name in present)
        if len(classes) < 2:
            raise DataError(f"{self.path} has {len(classes)} classes in {shown(self.target)}, but needs at least 2.")
        return classes

    def _stored(self, part: _Part) -> Iterator[StoredImage]:
        for file, table, begin in zip(part.files, part.tables, part.first_bytes, strict=True):
            status, row = file.stat(), 0
            for chunk in table.column(self._images[0]).chunks:
                for offset, length in _places_of_bytes(getattr(chunk, "storage", chunk), file, begin, status.st_size):
                    name = f"image {row} of {file}"
                    yield StoredImage(file, name, offset, length, status.st_mtime_ns)
                    row += 1

    # --- tables and arrays --------------------------------------------------------------------------------------------

    def table(self) -> tuple[Table, Tensor]:
        """Return all rows as a table, with names in the place of class numbers; and of each its part, (N,) int64: 0 for
        training, 1 for the test, 2 for the alphas of a search."""
        columns: dict[str, list[Any]] = {}
        for name in self._columns:
            columns[name] = [value for part in self._parts.values() for value in part.column(name).to_pylist()]
            if self._kind(name) == "ClassLabel":
                names = self._features[name].get("names") or []
                known = [value is not None and 0 <= value < len(names) for value in columns[name]]
                columns[name] = [names[v] if ok else None for v, ok in zip(columns[name], known, strict=True)]
        numbers = {"train": 0, "test": 1, "valid": 2}
        parts = [torch.full((sum(map(len, part.tables)),), numbers[name]) for name, part in self._parts.items()]
        return Table(named_columns(list(columns.items()), self.path)), torch.cat(parts)

    def arrays(self) -> Data:
        """Return lists of numbers, equally long in each row, as inputs: one tensor, or a dict of them by column.

        Raises:
            DataError: A column holds texts, or lists of unequal lengths.
        """
        inputs = [name for name in self._columns if name != self.target]
        samples = {}
        for name, part in self._parts.items():
            tensors = {column: _tensor_of(part.column(column), column, self.path) for column in inputs}
            targets = _tensor_of(part.column(self.target), self.target, self.path)
            samples[name] = TensorSamples(tensors if len(tensors) > 1 else tensors[inputs[0]], targets)
        classes = self._names() if self._kind(self.target) == "ClassLabel" else None
        train, test, valid = (samples.get(name) for name in ("train", "test", "valid"))
        assert train is not None
        return Data.from_datasets(train, test, valid=valid, classes=classes, name=f"folder:{self.path}")


def _folders(path: Path) -> dict[str, Path]:
    """Return the folder of each part that there is: train, test, valid."""
    if not (path / _OF_PARTS).is_file():
        return {"train": path}
    names = _json(path / _OF_PARTS).get("splits")
    if not isinstance(names, list) or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise DataError(f"{path / _OF_PARTS} does not tell the parts of the data set. Save it anew.")
    return {part: path / name for part, name in chosen_splits(names, path).items()}


def _opened(path: Path, folder: Path) -> _Part:
    try:
        import pyarrow
        from pyarrow import ipc
    except ImportError as error:
        raise OptionError(
            f"Reading '{path}', which the package datasets saved, needs pyarrow. Install archgrad[tables]."
        ) from error
    listed = _json(folder / _OF_ONE).get("_data_files")
    given = [each.get("filename") for each in listed if isinstance(each, Mapping)] if isinstance(listed, list) else []
    names = [name for name in given if isinstance(name, str) and Path(name).name == name]
    if not names or names != given:
        raise DataError(f"{folder / _OF_ONE} does not tell the files of the data set. Save it anew.")
    tables, first = [], []
    for name in names:
        try:
            with pyarrow.memory_map(str(folder / name)) as source:
                first.append(source.read_buffer().address)
                source.seek(0)
                tables.append(ipc.open_stream(source).read_all())
                tables[-1].validate(full=True)
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise DataError(f"'{folder / name}' cannot be read: {shown_text(str(error))}. Save it anew.") from error
    if not any(map(len, tables)):
        raise DataError(f"'{folder}' has no rows. Save it anew.")
    return _Part([folder / name for name in names], tables, first)


def _json(file: Path) -> Mapping[str, Any]:
    try:
        found = parse_json(read_file(file, most=MAX_TEXT_BYTES).decode("utf-8"), not_finite_as_none=True)
    except (OSError, ValueError, ArchitectureError) as error:
        raise DataError(f"'{file}' cannot be read: {shown_text(str(error))}. Save the data set anew.") from error
    return found if isinstance(found, Mapping) else {}


def _places_of_bytes(images: Any, file: Path, begin: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield where in its file each image lies: (first byte, how many)."""
    import pyarrow

    kind = images.type
    place = kind.get_field_index("bytes") if pyarrow.types.is_struct(kind) else -1
    if place < 0:
        raise DataError(f"The images of {file} are not stored as datasets.Image does. Save the data set anew.")
    content = images.flatten()[place]
    wide = pyarrow.types.is_large_binary(content.type)
    if content.null_count or not (wide or pyarrow.types.is_binary(content.type)):
        raise DataError(
            f"Images of {file} lie elsewhere, or are none. Save the data set with save_to_disk, which puts them in."
        )
    _, ends, data = content.buffers()
    bounds = np.frombuffer(ends, np.int64 if wide else np.int32)[content.offset : content.offset + len(content) + 1]
    starts = (data.address - begin if data is not None else 0) + bounds[:-1].astype(np.int64)
    lengths = np.diff(bounds)
    if len(starts) and not (starts.min() >= 0 and (starts + lengths).max() <= size):
        raise DataError(f"'{file}' is compressed, so that images cannot be read from it. Save it with save_to_disk.")
    yield from zip(starts.tolist(), lengths.tolist(), strict=True)


def _is_nested(kind: Any) -> bool:
    return str(kind).startswith(("list", "large_list", "fixed_size_list"))


def _tensor_of(array: Any, name: str, path: Path) -> Tensor:
    """Return a column of numbers, or of lists of them, as one tensor."""
    from pyarrow import compute, types

    shape = [len(array)]
    while _is_nested(array.type):
        lengths = compute.list_value_length(array).unique().to_pylist()
        if len(lengths) != 1 or lengths[0] is None:
            raise DataError(
                f"The lists of {shown(name)} in {path} have the lengths {shown(sorted(lengths, key=str))}. Pad them to "
                f"one length, or give a function of your own that returns the data with collate=..."
            )
        shape.append(lengths[0])
        array = array.flatten()
    kind = array.type
    if array.null_count or not types.is_primitive(kind) or types.is_temporal(kind):
        raise DataError(
            f"The column {shown(name)} of {path} must hold numbers in each row beside columns of lists, but is of the "
            f"type {kind}. Remove the column, or make numbers of it."
        )
    return torch.from_numpy(np.array(array.to_numpy(zero_copy_only=False))).reshape(shape)
