"""The data that a command works on."""

from __future__ import annotations

import inspect
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch.utils.data import Dataset

from archgrad.cli.own_code import find_own, given_options, settled_own
from archgrad.cli.parser import Parser, dashed
from archgrad.data import Data, as_data, load, stratified_halves
from archgrad.data.samples import size_of
from archgrad.data.saved_dataset import is_saved_dataset
from archgrad.data.table import Kind
from archgrad.data.table_file import is_table
from archgrad.data.text import Tokens
from archgrad.errors import DataError, OptionError
from archgrad.json_text import shown
from archgrad.named_space import missing
from archgrad.paths import from_home
from archgrad.runs import seeded
from archgrad.typed_names import OF_LOADING, OF_TABLES, OF_TEXT, PREFIXES, is_own

__all__ = ["add_data_options", "label_of", "loading_again", "open_data", "settled_name"]

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
        "of images, or a tar of them; or what save_to_disk of Hugging Face's datasets wrote), text:PATH (language "
        "modelling on a text file, or on a folder with a train, a valid and a test file), FILE.npz (arrays x and y, or "
        "inputs and targets), a table with --target (FILE.csv, FILE.tsv, FILE.parquet), or FILE.py:NAME or "
        "package.module:NAME, a function of your own that returns an archgrad.Data or anything else that "
        "archgrad.search takes (the file is run as Python). Its parameters are set by --data.PARAMETER VALUE.",
    )
    group.add_argument(
        "--image-size",
        type=int | str | None,
        help="Height and width in pixels that the images of folder:PATH are brought to, such as 64, or 48x96 (height x "
        "width). By default the commonest shorter side, for both.",
    )
    group.add_argument(
        "--fit",
        type=Literal["crop", "squash", "pad"] | None,
        help="What is done to images of folder:PATH of another shape: crop (cut their central part out; the default), "
        "squash (squeeze them), or pad (add black borders).",
    )
    group.add_argument(
        "--augmentation",
        type=Literal["shift", "imagenet", "none"] | None,
        help="What is done at random to training images of folder:PATH: shift (move them by up to an eighth of their "
        "side and mirror them; the default), imagenet (bring them to 8/7 of --image-size, 256 for 224, and take random "
        "parts of that, mirrored and with other colours; tests take the centre), or none.",
    )
    group.add_argument(
        "--skip-unreadable",
        type=bool,
        default=False,
        help="Leave out images of folder:PATH that cannot be read, and say how many.",
    )
    group.add_argument(
        "--target",
        type=str | None,
        help="Column of a table, or of what save_to_disk wrote, that is to be predicted; or several columns of "
        "numbers, with commas between.",
    )
    group.add_argument(
        "--group",
        type=str | None,
        help="Column of a table that says whom or what a row comes from (a patient, a user): no group is on two "
        "sides of a split.",
    )
    group.add_argument(
        "--time",
        type=str | None,
        help="Column of a table that says when a row was taken: the test set is the latest fifth, and the alphas learn "
        "from the latest of the rest.",
    )
    group.add_argument(
        "--tokens",
        type=Tokens | None,
        help="What text:PATH is made of: characters (the default), or words between blanks.",
    )
    group.add_argument(
        "--window",
        type=int | None,
        help="Tokens of text:PATH that the network reads and learns from at once. By default 35.",
    )
    group.add_argument(
        "--sample-weight",
        type=str | None,
        help="Column of a table that says how much a row counts in the loss, a number of at least 0.",
    )
    group.add_argument(
        "--fold",
        type=str | None,
        metavar="K/N",
        help="Test on part K of N of the training samples (of a table, of all rows) and train on the others, for "
        "cross-validation. The parts have the same share of each class, and no --group in common.",
    )
    group.add_argument(
        "--train-samples",
        type=int | None,
        help="Take this many training samples, the same share of each class, to try things out. By default all.",
    )


def settled_name(name: str) -> str:
    """Return a data set's name that means the same from any folder: a path made absolute.

    Raises:
        OptionError: It is a file of code, without what is to be taken from it.
    """
    if is_own(name):
        return settled_own(name)
    if name.endswith(".py"):
        raise OptionError(f"--data {name} does not say which function of the file gives the data. Give {name}:NAME.")
    if _is_file(name):
        return str(from_home(name).absolute())
    if not name.startswith(PREFIXES):
        return name
    kind, _, path = name.partition(":")
    return f"{kind}:{from_home(path).absolute()}"


def label_of(name: str) -> str:
    """Return a short name of a data set for folders."""
    if is_own(name):
        return name.rpartition(":")[2]
    if name.startswith(PREFIXES) or _is_file(name):
        return Path(name.partition(":")[2] if name.startswith(PREFIXES) else name).name.split(".")[0]
    return name


def _is_file(name: str) -> bool:
    return not name.startswith(PREFIXES) and (name.endswith(_ARRAYS) or is_table(name))


def _has_columns(name: str) -> bool:
    """Whether data is rows of columns, one of which is the target."""
    return is_table(name) or (name.startswith(_FOLDER) and is_saved_dataset(from_home(name.removeprefix(_FOLDER))))


def loading_again(values: Mapping[str, Any]) -> str:
    """Return the options that say how data is loaded, to be typed again."""
    text = ""
    for option in OF_LOADING:
        value = values.get(option)
        if value is True:
            text += f" {dashed(f'--{option}')}"
        elif value not in (None, False):
            text += f" {dashed(f'--{option}')} {shlex.quote(str(value))}"
    return text


def _size(text: int | str | None) -> int | tuple[int, int] | None:
    if not isinstance(text, str):
        return text
    if (match := re.fullmatch(r"(\d{1,9})(?:[xX](\d{1,9}))?", text)) is None:
        raise OptionError(f"--image-size takes a number of pixels, or height x width as 48x96, but got {shown(text)}.")
    return int(match[1]) if match[2] is None else (int(match[1]), int(match[2]))


def _fold(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    if (match := re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)) is None:
        raise OptionError(f"--fold takes the number of a part and of all parts, such as 2/5, but got {shown(text)}.")
    return int(match[1]), int(match[2])


def open_data(values: dict[str, Any]) -> Data:
    """Load the data that the command line asks for.

    Args:
        values: Of the command line, names settled; paths among the options of data of one's own are made absolute.

    Raises:
        DataError: It is not there, or damaged.
        OptionError: An option is outside its range, or does not go with the data.
    """
    name, options = values["data"], values.get("data_options", {})
    loading = {option: value for option in OF_LOADING if (value := values.get(option)) not in (None, False)}
    fold = _fold(loading.pop("fold", None))
    if is_own(name):
        if loading:
            typed = dashed(f"--{next(iter(loading))}")
            kinds = dict.fromkeys(OF_TABLES, "a table") | dict.fromkeys(OF_TEXT, "--data text:PATH")
            goes = kinds.get(next(iter(loading)), "--data folder:PATH")
            raise OptionError(f"{typed} goes with {goes}, but got --data {name}. Leave it out.")
        data, given = _of_own(name, options)
        data = data if fold is None else data.fold(*fold)
        if paths := {key: os.fspath(value) for key, value in given.items() if isinstance(value, Path)}:
            values["data_options"] = {**options, **paths}
    elif options:
        raise OptionError(f"--data.{next(iter(options))} goes with --data FILE.py:NAME, but got --data {name}.")
    else:
        size = _size(loading.pop("image_size", None))
        kind = values.get("task") if _has_columns(name) and values.get("task") in get_args(Kind) else None
        data = load(name, image_size=size, task=kind, fold=fold, **loading)
    wanted = values["train_samples"]
    return data if wanted is None else _part(data, wanted)


def _of_own(text: str, options: Mapping[str, Any]) -> tuple[Data, dict[str, Any]]:
    """Return what a function of a person's own gives, or a value, under the name that finds it again."""
    given = {}
    # Whatever the run's seed is, a split at random must be that of the search in the retraining.
    with seeded(0):
        found = find_own(text, what="data", error=DataError)
    if callable(found) and not isinstance(found, Dataset):
        parameters = inspect.signature(found).parameters
        given = given_options("data", text, parameters, options)
        if needed := missing(parameters, given):
            raise DataError(
                f"The data '{text}' needs {', '.join(needed)}. Give --data.{needed[0]} VALUE, or a default."
            )
        with seeded(0):
            found = found(**given)
    elif options:
        raise OptionError(f"The data '{text}' is no function, so it has no option --data.{next(iter(options))}.")
    try:
        return replace(as_data(found), name=text), given
    except DataError as error:
        raise DataError(f"What '{text}' gives cannot be used: {error}") from error


def _part(data: Data, wanted: int) -> Data:
    count = size_of(data.train)
    if not 1 <= wanted <= count:
        raise OptionError(f"--train-samples must be from 1 to {count}, the samples of {data.name}, but got {wanted}.")
    if wanted == count:
        return data
    indices, _ = stratified_halves(data.train_targets, fraction=wanted / count, seed=0)
    return data.take(torch.sort(indices).values)
