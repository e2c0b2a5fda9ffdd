"""Images in class folders, or a tar of them, as data."""

import json
import warnings
from collections import Counter
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from archgrad.data.archive import TAR_SUFFIXES, decompress, is_tar, read_tar
from archgrad.data.augment import Augmentation, channel_statistics, statistics_of_histogram
from archgrad.data.cache import key_of, load_tensors, make_file_once, only_process, save_tensors, save_text
from archgrad.data.dataset import Data, check_class_targets
from archgrad.data.decode import LARGEST_SIDE, Header, ImageFiles, decode_all, pixel_histogram, read_headers
from archgrad.data.image_cache import hold, make_room
from archgrad.data.listing import LAYOUT, Listing, StoredImage, list_classes, read_folder
from archgrad.data.samples import TensorSamples
from archgrad.errors import ArchitectureError, DataError
from archgrad.files import read_file
from archgrad.json_text import parse_json
from archgrad.machine import machine_memory
from archgrad.sizes import check_whole

_FORMAT = "archgrad.images.2"
_MOST_FACTS = 2**16  # bytes
_WORTH_TELLING = 0.3  # of the longer side; camera pictures of 4:3 lose a quarter
_SURVEY_IMAGES = 1000  # this many, evenly spaced, let us guess the size of all
_STATISTICS_IMAGES = 10_000  # where images stay in their files, this many, evenly spaced, tell mean and std


def load_folder(path: Path, *, root: Path, image_size: int | None = None, memory_limit: int | None = None) -> Data:
    """Load images from class folders, or from a tar of them.

    A tar is unpacked once and images are decoded once, into the cache. Images of other sizes are cut to their central
    square and resized.

    Args:
        path: A folder or a tar with train/<class>/ and test/<class>/ (or val/), or with <class>/ alone: then a fifth of
            each class, the same in each run, becomes the test set.
        root: Folder of the cache.
        image_size: Height and width in pixels, at least 1; by default the shorter side that half the images
            have, else the median one.
        memory_limit: Bytes that decoded images may take in memory; beyond it they are read from their files each time.
            A quarter of the machine's memory by default.

    Returns:
        The data, with mean and std measured on the training images.

    Raises:
        DataError: There is no such folder, it is not laid out so, or an image is corrupt or refused.
        OptionError: An option is outside its range.
    """
    if image_size is not None:
        check_whole("image_size", image_size, least=1, most=LARGEST_SIDE)
    if memory_limit is not None:
        check_whole("memory_limit", memory_limit, least=0, most=2**63 - 1)
    try:
        return _load_folder(path, root, image_size, _quarter_of_memory() if memory_limit is None else memory_limit)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}. Check that it is there and may be read.") from error


def _load_folder(path: Path, root: Path, image_size: int | None, limit: int) -> Data:
    listing: Listing | None = None
    stamp: tuple[object, ...]
    if path.is_dir():
        listing = list_classes(read_folder(path), path)
        stamp = (path.resolve(), *listing.train, *listing.test)
    elif path.is_file() and is_tar(path):
        stamp = (path.resolve(), path.stat().st_size, path.stat().st_mtime_ns)
    else:
        what = "is neither a folder nor a tar" if path.exists() else "does not exist"
        raise DataError(f"{path} {what}. Give folder:PATH with a folder or a tar ({', '.join(TAR_SUFFIXES)}). {LAYOUT}")

    decoded = root / "decoded" / f"{key_of(_FORMAT, image_size, *stamp)}.safetensors"
    if (data := _from_cache(decoded, path, limit)) is not None:
        return data
    with only_process(decoded):
        if (data := _from_cache(decoded, path, limit)) is not None:  # made while we waited
            return data
        if listing is None:
            plain = root / "unpacked" / f"{key_of(*stamp)}.tar"
            while not hold(make_file_once(plain, partial(decompress, path))):
                pass  # removed by another process just now
            listing = list_classes(read_tar(plain, path), path)
        data = _from_images(listing, path, decoded, image_size, limit)
    make_room(root)
    return data


@dataclass
class _Facts:
    """What is measured on the images."""

    channels: int
    image_size: int
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


def _from_images(listing: Listing, path: Path, decoded: Path, image_size: int | None, limit: int) -> Data:
    known = _load_facts(decoded.with_suffix(".json"))
    guess = known or _facts_of(read_headers(_evenly_spaced(listing.train, _SURVEY_IMAGES)), image_size)
    while (len(listing.train) + len(listing.test)) * guess.channels * guess.image_size**2 <= limit:
        train_inputs, headers = decode_all(listing.train, image_size=guess.image_size, channels=guess.channels)
        facts = _facts_of(headers, image_size)
        if (facts.image_size, facts.channels) != (guess.image_size, guess.channels):
            guess = facts  # wrong for once, so decode again, unless that no longer fits
            continue
        test_inputs, _ = decode_all(listing.test, image_size=facts.image_size, channels=facts.channels)
        _tell_what_is_cut(path, headers)
        facts.mean, facts.std = channel_statistics(train_inputs)
        tensors = {"train_inputs": train_inputs, "train_targets": listing.train_targets}
        tensors |= {"test_inputs": test_inputs, "test_targets": listing.test_targets}
        save_tensors(decoded, tensors, {"classes": json.dumps(listing.classes), "facts": json.dumps(asdict(facts))})
        train: Dataset = TensorSamples(train_inputs, listing.train_targets)
        return _data(path, train, TensorSamples(test_inputs, listing.test_targets), listing.classes, facts)

    headers = [] if known else read_headers(listing.train)
    facts = known or _facts_of(headers, image_size)
    size, channels = facts.image_size, facts.channels
    if known is None:
        _tell_what_is_cut(path, headers)
        some = _evenly_spaced(listing.train, _STATISTICS_IMAGES)
        facts.mean, facts.std = statistics_of_histogram(pixel_histogram(some, image_size=size, channels=channels))
        save_text(decoded.with_suffix(".json"), json.dumps(asdict(facts)))
    train = ImageFiles(listing.train, listing.train_targets, image_size=size, channels=channels)
    test = ImageFiles(listing.test, listing.test_targets, image_size=size, channels=channels)
    return _data(path, train, test, listing.classes, facts)


def _evenly_spaced(images: list[StoredImage], most: int) -> list[StoredImage]:
    return images[:: -(-len(images) // most)]


def _facts_of(headers: list[Header], image_size: int | None) -> _Facts:
    sides = Counter(header.side for header in headers)
    typical, shared = sides.most_common(1)[0]
    if 2 * shared < len(headers):  # else a few thumbnails of one size could stand against photos of many sizes
        typical = sorted(sides.elements())[(len(headers) - 1) // 2]
    return _Facts(3 if any(header.colour for header in headers) else 1, image_size or typical)


def _tell_what_is_cut(path: Path, headers: list[Header]) -> None:
    if cut := [header.cut for header in headers if header.cut > _WORTH_TELLING]:
        warnings.warn(
            f"{len(cut)} of {len(headers)} training images of {path} are not square; of each, only the central square "
            f"is used, which leaves out up to {max(cut):.0%} of the longer side. If what they show may lie there, "
            f"make them square before, by padding or squashing.",
            stacklevel=2,
        )


def _from_cache(decoded: Path, path: Path, limit: int) -> Data | None:
    """Read the decoded images back; None where there are none, they are damaged, or they are too many."""
    if not decoded.is_file() or decoded.stat().st_size > limit or (stored := load_tensors(decoded)) is None:
        return None
    tensors, metadata = stored
    hold(decoded)
    try:
        classes = tuple(str(name) for name in parse_json(metadata["classes"]))
        facts = _facts_from(parse_json(metadata["facts"]))
        train, test = (
            TensorSamples(tensors[f"{part}_inputs"], tensors[f"{part}_targets"]) for part in ("train", "test")
        )
        for samples, what in ((train, "training"), (test, "test")):
            check_class_targets(samples.targets, len(classes), what)
            if samples.inputs.dtype != torch.uint8 or samples.inputs.shape[1:] != (
                facts.channels,
                *[facts.image_size] * 2,
            ):
                return None
    except (KeyError, TypeError, ValueError, DataError, ArchitectureError):
        return None
    return _data(path, train, test, classes, facts)


def _load_facts(file: Path) -> _Facts | None:
    try:
        return _facts_from(parse_json(read_file(file, most=_MOST_FACTS).decode("utf-8")))
    except (OSError, KeyError, TypeError, ValueError, ArchitectureError):
        return None


def _facts_from(stored: Any) -> _Facts:
    facts = _Facts(
        int(stored["channels"]),
        int(stored["image_size"]),
        tuple(float(value) for value in stored["mean"]),
        tuple(float(value) for value in stored["std"]),
    )
    right = facts.channels in (1, 3) and 1 <= facts.image_size <= LARGEST_SIDE
    right = right and {len(facts.mean), len(facts.std)} == {facts.channels}
    if not right or not all(std > 0 for std in facts.std):
        raise ValueError("not the facts of images")
    return facts


def _data(path: Path, train: Dataset, test: Dataset, classes: tuple[str, ...], facts: _Facts) -> Data:
    return Data(
        name=f"folder:{path}",
        train=train,
        test=test,
        classes=classes,
        channels=facts.channels,
        image_size=facts.image_size,
        mean=facts.mean,
        std=facts.std,
        augmentation=Augmentation(crop_padding=facts.image_size // 8, flip=True),  # 4 at 32 pixels, as for CIFAR-10
    )


def _quarter_of_memory() -> int:
    memory = machine_memory()
    return 2**31 if memory is None else memory // 4
