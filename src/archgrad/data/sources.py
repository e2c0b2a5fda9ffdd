"""The data sets that have a name, and whatever else a caller may have."""

import importlib.util
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
    default_convert,
)

from archgrad.data.arrays import load_arrays, pair_samples
from archgrad.data.augment import Augmentation, channel_statistics
from archgrad.data.cache import cache_root, only_process
from archgrad.data.class_targets import check_class_targets
from archgrad.data.dataset import Data
from archgrad.data.decode import Fit
from archgrad.data.image_cache import decoded_root
from archgrad.data.image_folder import ImageAugmentation, ImageSize, load_folder
from archgrad.data.samples import TensorSamples
from archgrad.data.saved_dataset import SavedDataset, is_saved_dataset
from archgrad.data.split import stratified_halves
from archgrad.data.table import Kind, data_of_table, load_table
from archgrad.data.table_file import is_table
from archgrad.data.text import Tokens, load_text
from archgrad.errors import DataError, OptionError, did_you_mean
from archgrad.json_text import shown, shown_text
from archgrad.paths import from_home
from archgrad.sizes import check_whole
from archgrad.typed_names import TEXT

_CIFAR10_MEAN, _CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # the authors' constants
_PATIENCE_SECONDS = 20.0  # with a server that does not answer

_TORCHVISION = {
    # name: (class in torchvision.datasets, augmentation; a mirrored digit would be another sign)
    "cifar10": ("CIFAR10", Augmentation(crop_padding=4, flip=True)),
    "cifar100": ("CIFAR100", Augmentation(crop_padding=4, flip=True)),
    "fashion-mnist": ("FashionMNIST", Augmentation(crop_padding=3, flip=True)),
    "mnist": ("MNIST", Augmentation(crop_padding=3)),
    "svhn": ("SVHN", Augmentation(crop_padding=4)),
}

NAMES = ("digits", *_TORCHVISION)
"""The names that `load` takes, beside `folder:PATH`, `text:PATH`, `FILE.npz` and tables."""
_UNREAD_FILES = {
    (".xlsx", ".xls", ".xlsm", ".ods"): "Save the sheet as CSV, and give that.",
    (".gz", ".zip", ".bz2", ".xz", ".7z", ".rar", ".tgz", ".tar"): "Unpack it, and give what it holds; class folders "
    "of images are given as folder:PATH, in a tar as well.",
    (".json", ".jsonl", ".feather", ".arff", ".sav", ".dta"): "Write its rows as CSV or Parquet, and give that.",
    (".npy",): "Write inputs and targets with numpy.savez(FILE, x=..., y=...), and give that.",
    (".txt", ".dat", ".data"): "A table is to be called FILE.csv, whatever separates its cells; a text for language "
    "modelling is given as text:PATH.",
    (".pkl", ".pickle", ".joblib", ".pt", ".pth", ".mat", ".h5", ".hdf5", ".tfrecord", ".xml", ".yaml"): "Read it in a "
    "function of yours, and give FILE.py:NAME.",
}
"""What to do with files that are not read, by how their names end."""


def load(
    name: str,
    *,
    root: str | os.PathLike[str] | None = None,
    download: bool = True,
    image_size: ImageSize | None = None,
    memory_limit: int | None = None,
    fit: Fit | None = None,
    augmentation: ImageAugmentation | None = None,
    skip_unreadable: bool = False,
    channels: int | None = None,
    target: str | None = None,
    task: Kind | None = None,
    group: str | None = None,
    time: str | None = None,
    sample_weight: str | None = None,
    fold: tuple[int, int] | None = None,
    tokens: Tokens | None = None,
    window: int | None = None,
) -> Data:
    """Load a data set by name.

    Args:
        name: `digits` (embedded: 1,797 grey 8x8 images), `cifar10`, `cifar100`, `fashion-mnist`, `mnist`, `svhn`
            (downloaded on first use), `folder:PATH` (class folders of images, or a tar of them; see `load_folder`; or
            what `save_to_disk` of Hugging Face's datasets wrote, of images, numbers and names, or lists of numbers),
            `text:PATH` (language modelling; see `load_text`), `FILE.npz` (arrays x and y, or inputs and targets; see
            `load_arrays`), or a table, `FILE.csv`, `FILE.tsv` or `FILE.parquet` (see `load_table`).
        root: Folder for downloads and decoded images; the variable ARCHGRAD_DATA, else ~/.cache/archgrad, by default.
            For decoded images ARCHGRAD_CACHE wins over ARCHGRAD_DATA; it may be "off".
        download: Download what is missing; False only uses what is there.
        image_size: For `folder:PATH`: height and width in pixels, one number or two; by default what most images have
            (see `load_folder`).
        memory_limit: For `folder:PATH`: bytes that decoded images may take in memory; a quarter of it by default.
        fit: For `folder:PATH`: what is done to images of another shape, "crop", "squash" or "pad"; "crop" by default.
        augmentation: For `folder:PATH`: what is done at random to training images, "shift", "imagenet" or "none" (see
            `load_folder`); "shift" by default.
        skip_unreadable: For `folder:PATH`: leave out images that cannot be read, and count them.
        channels: For `folder:PATH`: 1 for grey images, 3 for colour; by default what they have.
        target: For a table: column that is to be predicted, or several with commas between.
        task: For a table: "classification" or "regression"; by default what the target holds.
        group: For a table: column of whom or what a row comes from; no group is in two parts of the data.
        time: For a table: column that tells the order of the rows; the test set is the latest.
        sample_weight: For a table: column that tells how much each row counts in the loss.
        fold: (number from 1 on, number of folds), the part of the training samples, or of all rows of a table, that is
            the test set instead of the data's own; see `Data.fold`.
        tokens: For `text:PATH`: "characters" (the default) or "words".
        window: For `text:PATH`: tokens of a sample; 35 by default.

    Returns:
        The data, images as uint8.

    Raises:
        DataError: There is no such data set, it cannot be downloaded, or it is damaged.
        OptionError: An option does not go with the name, or is outside its range.
    """
    read: dict[str, Any] = {"image_size": image_size, "memory_limit": memory_limit, "skip_unreadable": skip_unreadable}
    of_images = {**read, "fit": fit, "augmentation": augmentation, "channels": channels}
    of_table: dict[str, Any] = {
        "target": target,
        "task": task,
        "group": group,
        "time": time,
        "sample_weight": sample_weight,
    }
    of_text: dict[str, Any] = {"tokens": tokens, "window": window}
    if fold is None:
        return _load(name, root, download, of_images, of_table, of_text)
    check_whole("the number of folds", fold[1], least=2)
    check_whole("the number of a fold", fold[0], least=1, most=fold[1])
    data = _load(name, root, download, of_images, of_table, of_text, fold)
    return data if data.encoding is not None else data.fold(*fold)


def _load(
    name: str,
    root: str | os.PathLike[str] | None,
    download: bool,
    of_images: dict[str, Any],
    of_table: dict[str, Any],
    of_text: dict[str, Any],
    fold: tuple[int, int] | None = None,
) -> Data:
    """Load data, of rows the fold; all others have it afterwards."""
    if not name.startswith(TEXT):
        _check_none("text:PATH", of_text, name)
    if name.startswith("folder:"):
        path, listing = from_home(name.removeprefix("folder:")), None
        if is_saved_dataset(path):
            saved = SavedDataset(path, of_table["target"])
            if not saved.of_images:
                return _of_numbers(saved, name, of_images, of_table, fold)
            listing = saved.listing()
            of_table |= {"target": None, "task": None}
        _check_none("a table", of_table, name)
        of_images |= {"fit": of_images["fit"] or "crop", "augmentation": of_images["augmentation"] or "shift"}
        return load_folder(path, root=decoded_root(root), listing=listing, **of_images)
    _check_kind_of_file(name)
    _check_none("folder:PATH", of_images, name)
    if is_table(name):
        return load_table(from_home(name), fold=fold, **of_table)
    _check_none("a table", of_table, name)
    if name.startswith(TEXT):
        given = {option: value for option, value in of_text.items() if value is not None}
        return load_text(from_home(name.removeprefix(TEXT)), **given)
    if name.endswith(".npz"):
        return load_arrays(from_home(name))
    if name == "digits":
        return _digits()
    if name in _TORCHVISION:
        return _torchvision(name, cache_root(root), download)
    if os.path.exists(name):
        kind = "folder" if os.path.isdir(name) else "text"
        hint = f" To read the {'images there' if kind == 'folder' else 'text'}, give '{kind}:{name}'."
    else:
        hint = did_you_mean(name.lower().replace("_", "-"), NAMES)
    raise DataError(
        f"There is no data set {shown(name)}. Known are {', '.join(NAMES)}, folder:PATH, text:PATH, FILE.npz and "
        f"tables such as FILE.csv.{hint}"
    )


def _check_kind_of_file(name: str) -> None:
    """Refuse files of kinds that other programs write and are not read, and say what to do."""
    for suffixes, advice in _UNREAD_FILES.items():
        if name.lower().endswith(suffixes) and os.path.isfile(from_home(name)):
            raise DataError(f"Files such as {shown(name)} are not read as data. {advice}")


def _of_numbers(
    saved: SavedDataset,
    name: str,
    of_images: dict[str, Any],
    of_table: dict[str, Any],
    fold: tuple[int, int] | None,
) -> Data:
    """Return the data of a folder of Hugging Face's datasets that holds no images."""
    _check_none("images", of_images, name)
    if saved.of_arrays:
        _check_none("a table", {**of_table, "target": None, "task": None}, name)
        return saved.arrays()
    table, parts = saved.table()
    data = data_of_table(table, saved.path, parts=parts, fold=fold, **{**of_table, "target": saved.target})
    return replace(data, name=name)


def _check_none(kind: str, options: dict[str, Any], name: str) -> None:
    if given := [option for option, value in options.items() if value not in (None, False)]:
        go = "go" if len(given) > 1 else "goes"
        raise OptionError(
            f"{' and '.join(given)} {go} with {kind}, but the data is {name!r}. Leave out what is not its."
        )


def as_data(source: Data | Dataset | tuple[Any, Any] | str) -> Data:
    """Bring whatever a caller has to `Data`.

    Args:
        source: `Data`; a map-style or iterable data set; a `DataLoader`, of which the data set and collate function are
            taken; a pair (inputs, targets) of tensors or arrays, where inputs may also be a
            tuple, list or dict of them; or a name for `load`.

    Returns:
        The data.

    Raises:
        DataError: It is none of these, or breaks a rule of `Data.from_datasets` or `load`.
    """
    if isinstance(source, Data):
        return source
    if isinstance(source, str):
        return load(source)
    if isinstance(source, DataLoader):
        return _of_loader(source)
    if isinstance(source, IterableDataset):
        return Data.from_datasets(source)
    if isinstance(source, tuple) and len(source) == 2 and isinstance(source[1], Tensor | np.ndarray):
        return Data.from_datasets(pair_samples(*source))
    if hasattr(source, "__getitem__") and not isinstance(source, tuple | list | dict):
        return Data.from_datasets(source)
    raise DataError(
        f"Data must be a name such as 'digits', a map-style data set, or a pair (inputs, targets) of tensors (inputs "
        f"also in a tuple or dict), but got {type(source).__name__}."
    )


def _of_loader(loader: DataLoader) -> Data:
    """Take the data set and the collate function of a loader, as its batches could not be split and gone on with."""
    if isinstance(loader.dataset, IterableDataset):
        plain = True
    else:
        plain = (
            type(loader.sampler) in (SequentialSampler, RandomSampler) and type(loader.batch_sampler) is BatchSampler
        )
        plain = plain and not getattr(loader.sampler, "replacement", False)
    if not plain:
        raise DataError(
            f"The loader draws by a {type(loader.sampler).__name__}, which batches that can be split in halves and "
            f"gone on with to the bit cannot do. Give its .dataset; weigh the loss instead, or repeat samples in it."
        )
    warnings.warn(
        "Of the DataLoader its data set and collate_fn are taken. archgrad makes the batches itself, so that they "
        "can be split and a run goes on to the bit: give batch_size and workers as options; the training order is "
        "shuffled.",
        stacklevel=3,
    )
    known = loader.collate_fn in (None, default_collate, default_convert)
    return Data.from_datasets(loader.dataset, collate=None if known else loader.collate_fn)


def _digits() -> Data:
    table = torch.from_numpy(_digits_table())
    images = (table[:, :-1].reshape(-1, 1, 8, 8) * (255 / 16)).round().to(torch.uint8)  # from 0..16
    targets = table[:, -1].long()
    train, test = (part.sort().values for part in stratified_halves(targets, fraction=1437 / 1797, seed=0))
    return _in_memory(
        "digits",
        TensorSamples(images[train], targets[train]),
        TensorSamples(images[test], targets[test]),
        tuple(str(digit) for digit in range(10)),
        Augmentation(crop_padding=1),
    )


def _digits_table() -> np.ndarray:
    """(1797, 65): 64 pixels from 0 to 16 and the digit. The file is scikit-learn's, whose import takes seconds."""
    package = importlib.util.find_spec("sklearn")
    for place in (package and package.submodule_search_locations) or ():
        file = Path(place, "datasets", "data", "digits.csv.gz")
        if file.is_file():
            return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits  # knows where its own version keeps it

    return np.column_stack(load_digits(return_X_y=True))


def _torchvision(name: str, root: Path, download: bool) -> Data:
    from torchvision import datasets  # here, as it takes a second

    class_name, augmentation = _TORCHVISION[name]
    make = getattr(datasets, class_name)
    try:
        with only_process(root / class_name), _impatient_network():
            # torchvision checks the checksums of files that could hold code (CIFAR's pickles) before it reads them.
            if name == "svhn":
                train, test = (make(root, split=split, download=download) for split in ("train", "test"))
            else:
                train, test = (make(root, train=part, download=download) for part in (True, False))
    except DataError:
        raise
    except Exception as error:  # torchvision's readers, fed with damaged files, raise AssertionError and others too
        reason = shown_text(str(error) or type(error).__name__)
        tried = "could not be downloaded" if download else "may not be downloaded (download=False)"
        raise DataError(
            f"The data set {name!r} is not whole under {root}, and {tried}: {reason}. Put its files there "
            f"as torchvision.datasets.{class_name} keeps them, give another root=... (or variable ARCHGRAD_DATA), or "
            f"give 'folder:PATH' with class folders of images."
        ) from error
    classes = tuple(str(label) for label in getattr(train, "classes", range(10)))
    if name in ("mnist", "svhn"):
        classes = tuple(str(digit) for digit in range(10))
    for part, what in ((train, "training"), (test, "test")):
        check_class_targets(_samples(part).targets, len(classes), what)
    return _in_memory(name, _samples(train), _samples(test), classes, augmentation)


def _samples(dataset: Any) -> TensorSamples:
    images = _as_tensor(dataset.data)
    if images.ndim == 3:
        images = images[:, None]
    elif images.shape[-1] == 3:
        images = images.permute(0, 3, 1, 2)
    targets = _as_tensor(dataset.labels if hasattr(dataset, "labels") else dataset.targets)
    return TensorSamples(images.contiguous(), targets)


def _as_tensor(values: Any) -> Tensor:
    return values if isinstance(values, Tensor) else torch.from_numpy(np.array(values))


def _in_memory(
    name: str, train: TensorSamples, test: TensorSamples, classes: tuple[str, ...], augmentation: Augmentation
) -> Data:
    known = name == "cifar10"
    mean, std = (_CIFAR10_MEAN, _CIFAR10_STD) if known else channel_statistics(train.inputs)
    return Data(
        name=name,
        train=train,
        test=test,
        classes=classes,
        channels=train.inputs.shape[1],
        image_size=train.inputs.shape[2],
        mean=mean,
        std=std,
        augmentation=augmentation,
    )


@contextmanager
def _impatient_network() -> Iterator[None]:
    """Give up on a server that does not answer; torchvision's downloads would wait for minutes."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
