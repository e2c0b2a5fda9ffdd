"""The data that a command works on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Subset

from archgrad.cli.parser import Parser
from archgrad.data import Data, load, stratified_halves
from archgrad.data.samples import as_samples, size_of
from archgrad.errors import OptionError
from archgrad.paths import from_home

__all__ = ["add_data_options", "label_of", "open_data", "settled_name"]

_FOLDER, _ARRAYS = "folder:", ".npz"


def add_data_options(parser: Parser) -> None:
    """Add `--data` and what goes with it."""
    group = parser.add_argument_group("data")
    group.add_argument(
        "--data",
        type=str,
        default="digits",
        help="digits (1,797 real grey 8x8 images, embedded), cifar10, cifar100, fashion-mnist, mnist, svhn (downloaded "
        "on first use into ~/.cache/archgrad, or where the variable ARCHGRAD_DATA says), folder:PATH (class folders "
        "of images, or a tar of them), or FILE.npz (arrays x and y, or inputs and targets).",
    )
    group.add_argument(
        "--image-size",
        type=int | None,
        help="Height and width in pixels that the images of folder:PATH are brought to. By default the commonest.",
    )
    group.add_argument(
        "--train-samples",
        type=int | None,
        help="Take this many training samples, the same share of each class, to try things out. By default all.",
    )


def settled_name(name: str) -> str:
    """Return a data set's name that means the same from any folder: a path made absolute."""
    if name.endswith(_ARRAYS) and not name.startswith(_FOLDER):
        return str(from_home(name).absolute())
    if not name.startswith(_FOLDER):
        return name
    return f"{_FOLDER}{from_home(name.removeprefix(_FOLDER)).absolute()}"


def label_of(name: str) -> str:
    """Return a short name of a data set for folders."""
    if name.startswith(_FOLDER) or name.endswith(_ARRAYS):
        return Path(name.removeprefix(_FOLDER)).name.split(".")[0]
    return name


def open_data(values: dict[str, Any]) -> Data:
    """Load the data that the command line asks for.

    Args:
        values: Of the command line, names settled.

    Raises:
        DataError: It is not there, or damaged.
        OptionError: An option is outside its range.
    """
    data = load(values["data"], image_size=values["image_size"])
    wanted = values["train_samples"]
    return data if wanted is None else _part(data, wanted)


def _part(data: Data, wanted: int) -> Data:
    count = size_of(data.train)
    if not 1 <= wanted <= count:
        raise OptionError(f"--train-samples must be from 1 to {count}, the samples of {data.name}, but got {wanted}.")
    if wanted == count:
        return data
    indices, _ = stratified_halves(data.train_targets, fraction=wanted / count, seed=0)
    return replace(data, train=as_samples(Subset(data.train, torch.sort(indices).values.tolist())))
