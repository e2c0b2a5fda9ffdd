"""Which images there are, and of which class: folders on disk or inside a tar."""

import os
import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from archgrad.data.class_targets import tell_similar_names
from archgrad.data.split import stratified_halves
from archgrad.errors import DataError
from archgrad.json_text import shown

IMAGE_SUFFIXES = frozenset(
    (*(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".avif", ".ppm", ".pgm", ".tif", ".tiff"),)
)
"""Files with these suffixes are images."""

UNREAD_SUFFIXES = frozenset(
    (".heic", ".heif", ".jxl", ".jp2", ".psd", ".svg", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raw", ".dcm", ".exr")
)
"""Files with these suffixes are images that are not read."""

DEEPEST = 64
"""Most folders inside each other."""

LAYOUT = (
    "Expected are PATH/train/<class>/*.jpg and PATH/test/<class>/*.jpg, or PATH/<class>/*.jpg alone (a fifth of which "
    "becomes the test set)."
)
"""How class folders are laid out, for messages."""

_ELSEWHERE = (
    "Where a file says what each image shows, sort the images into class folders by it, or read both in a function of "
    "yours and give FILE.py:NAME as the data."
)
_OF_SYSTEMS = frozenset(("__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found"))
"""Folders that systems put beside a person's own, with thumbnails or what was thrown away."""
_PICTURES = frozenset(("image", "images", "img", "imgs", "jpegimages", "leftimg8bit"))
_MARKED = frozenset(
    (
        *("mask", "masks", "label", "labels", "annotation", "annotations", "labelids", "groundtruth", "ground_truth"),
        *("gt", "gtfine", "segmentation", "segmentations", "segmentationclass", "segmentationobject", "imagesets"),
    )
)
"""Folders of what annotation tools export beside the images."""
_SPLITS = {
    **dict.fromkeys(("train", "training", "trainset"), "train"),
    **dict.fromkeys(("test", "testing", "testset", "eval", "evaluation"), "test"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "valset"), "val"),
    **dict.fromkeys(("dev", "development"), "dev"),
}
"""What the parts of a data set are called, and what is meant."""
_TEST_SPLITS = ("test", "val", "dev")
"""Which part is the test set: the first that is there."""


class StoredImage(NamedTuple):
    """Where the bytes of an image are."""

    path: Path
    """Its file, or the tar that holds it."""

    name: str
    """Its name, for messages."""

    offset: int
    """First byte; 0 for a file of its own."""

    length: int
    """Number of bytes."""

    changed: int
    """When its file changed, in nanoseconds; 0 in a tar."""


@dataclass
class ImageFolder:
    """Images and folders in a folder; hidden ones and other files are left out."""

    images: dict[str, StoredImage] = field(default_factory=dict)
    folders: dict[str, "ImageFolder"] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)
    """Names of images of kinds that are not read."""

    def folder(self, name: str) -> "ImageFolder":
        """Return the folder of that name, made on first use."""
        return self.folders.setdefault(name, ImageFolder())

    def all_unread(self) -> list[str]:
        """List the names of images here and below that are not read."""
        return [*self.unread, *(name for folder in self.folders.values() for name in folder.all_unread())]

    def count(self) -> int:
        """Count the images here and at any depth below."""
        return len(self.images) + sum(folder.count() for folder in self.folders.values())

    def all_images(self) -> list[StoredImage]:
        """List the images here and at any depth below, in order of name."""
        found = [self.images[name] for name in sorted(self.images)]
        for name in sorted(self.folders):
            found += self.folders[name].all_images()
        return found


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Images of a training and a test set, and perhaps of one for the alphas, in order of class and name."""

    classes: tuple[str, ...]
    train: list[StoredImage]
    train_targets: Tensor
    test: list[StoredImage]
    test_targets: Tensor
    valid: list[StoredImage] = field(default_factory=list)
    valid_targets: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))

    @property
    def images(self) -> list[StoredImage]:
        """All of them: train, test, valid."""
        return [*self.train, *self.test, *self.valid]

    def parts(self) -> dict[str, tuple[list[StoredImage], Tensor]]:
        """Return the images and targets of each part that there is."""
        found = {name: (getattr(self, name), getattr(self, f"{name}_targets")) for name in ("train", "test", "valid")}
        return {name: part for name, part in found.items() if part[0]}

    def without(self, names: Collection[str]) -> "Listing":
        """Return the same without the images of these names."""
        left: dict[str, Any] = {}
        for name, (images, targets) in self.parts().items():
            stays = [place for place, image in enumerate(images) if image.name not in names]
            left |= {name: [images[place] for place in stays], f"{name}_targets": targets[stays]}
        return replace(self, **left)


def is_hidden(folder: str) -> bool:
    """Whether a folder of that name is left out, as it is hidden or a system's own."""
    return folder.startswith(".") or folder.lower() in _OF_SYSTEMS


def is_image(name: str) -> bool:
    """Whether a file of that name is listed."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def is_unread(name: str) -> bool:
    """Whether a file of that name is an image of a kind that is not read."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in UNREAD_SUFFIXES


def read_folder(path: Path, *, depth: int = 0, around: frozenset[str] = frozenset()) -> ImageFolder:
    """List a folder on disk; links are followed.

    Args:
        path: The folder.
        depth: How many folders lie around it already.
        around: Their real paths.

    Raises:
        DataError: Folders lie more than `DEEPEST` inside each other, or a link leads nowhere or back to a folder around
            it.
        OSError: One cannot be read.
    """
    if depth > DEEPEST:
        raise DataError(
            f"{shown(str(path))} lies more than {DEEPEST} folders deep. Name a folder nearer to the images."
        )
    if (real := os.path.realpath(path)) in around:
        raise DataError(f"{shown(str(path))} is a link that leads back to a folder around it. Remove it.")
    found = ImageFolder()
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir():
                if not is_hidden(entry.name):
                    found.folders[entry.name] = read_folder(Path(entry.path), depth=depth + 1, around=around | {real})
            elif is_unread(entry.name):
                found.unread.append(entry.path)
            elif is_image(entry.name):
                if not entry.is_file():
                    raise DataError(
                        f"{shown(entry.path)} is a link that leads nowhere. Restore its file, or remove it."
                    )
                stat = entry.stat()
                found.images[entry.name] = StoredImage(Path(entry.path), entry.path, 0, stat.st_size, stat.st_mtime_ns)
    return found


def list_classes(folder: ImageFolder, path: Path) -> Listing:
    """Find out classes, training and test images.

    Args:
        folder: train/<class>/ and test/<class>/ (in any case, under the names of `split_of`), or <class>/ alone: then
            a fifth of each class, always the same, becomes the test set. Beside train/ the first of test, val and dev
            is the test set, and the next of them, if any, is for the alphas of a search. It may have one folder around
            all of it.
        path: For messages.

    Returns:
        The images; classes in order of name.

    Raises:
        DataError: It is not laid out so, a class has no images, or there are fewer than two.
    """
    if unread := sorted(folder.all_unread()):
        warnings.warn(
            f"{len(unread)} images of {path} are left out, such as {shown(unread[0])}, as their kind is not read. "
            f"Convert them to JPEG or PNG.",
            stacklevel=2,
        )
    whole = folder
    while len(folder.folders) == 1:
        name, only = next(iter(folder.folders.items()))
        if not only.folders or split_of(name) == "train":
            break
        folder = only
    train_folder, test_folder, valid_folder = _splits(folder, path)
    classes = tuple(sorted(train_folder.folders))
    _check_no_annotations(train_folder, path)
    if len(classes) < 2:
        raise DataError(
            f"{path} holds {len(classes)} class folders {list(classes)}, but at least 2 are needed. {LAYOUT} "
            f"{_ELSEWHERE}"
        )
    _check_no_splits(train_folder, path)
    tell_similar_names(classes, path)
    train, train_targets = _labelled(train_folder, classes)
    counts = train_targets.bincount(minlength=len(classes)).tolist()
    if empty := [name for name, count in zip(classes, counts, strict=True) if not count]:
        raise DataError(f"{path} holds no images for the classes {empty}. Remove their folders, or add images.")
    valid: dict[str, Any] = {}
    if valid_folder is not None:
        valid["valid"], valid["valid_targets"] = _of_part(valid_folder, classes, path, "validation")
    if test_folder is not None:
        test, test_targets = _of_part(test_folder, classes, path, "test")
    else:
        if single := [name for name, count in zip(classes, counts, strict=True) if count < 2]:
            raise DataError(f"{path} has a single image for the classes {single}; without a test folder, 2 are needed.")
        (train, train_targets), (test, test_targets) = without_a_fifth(train, train_targets)
    listing = Listing(
        classes=classes, train=train, train_targets=train_targets, test=test, test_targets=test_targets, **valid
    )
    if left_out := whole.count() - len(listing.images):
        known = {image.name for image in listing.images}
        example = next(image.name for image in whole.all_images() if image.name not in known)
        warnings.warn(
            f"{left_out} images of {path} are left out, as they lie in no class folder of a part that is used, such as "
            f"{shown(example)}.",
            stacklevel=2,
        )
    return listing


def without_a_fifth(
    images: Sequence[StoredImage], targets: Tensor
) -> tuple[tuple[list[StoredImage], Tensor], tuple[list[StoredImage], Tensor]]:
    """Return (images, targets) for training, and a fifth of each class as the test set of data that has none."""
    parts = (part.sort().values for part in stratified_halves(targets, fraction=0.8, seed=0))
    train, test = (([images[index] for index in part], targets[part]) for part in parts)
    return train, test


def _of_part(folder: ImageFolder, classes: tuple[str, ...], path: Path, what: str) -> tuple[list[StoredImage], Tensor]:
    if strangers := sorted(set(folder.folders) - set(classes)):
        raise DataError(f"{path} has {what} images but no training images for the classes {strangers}. Add some.")
    images, targets = _labelled(folder, classes)
    if not images and (flat := len(folder.images)):
        raise DataError(
            f"{path} has a {what} folder of {flat} images without class folders, so that nothing says what they show. "
            f"Sort them into class folders, or move the folder elsewhere: then a part of the training images is taken."
        )
    if not images:
        raise DataError(f"{path} has a {what} folder without images. Add some, or remove it. {LAYOUT}")
    return images, targets


def split_of(name: str) -> str | None:
    """Return "train", "test", "val" or "dev" where a folder is called as the parts of a data set are; else None.

    In any case, and behind or before other words: train, Training, my-data_train, valid, validation, test_set.
    """
    words = re.findall(r"[a-z]+", name.lower())
    found = {_SPLITS[word] for word in words if word in _SPLITS}
    return found.pop() if len(found) == 1 else None


def _splits(folder: ImageFolder, path: Path) -> tuple[ImageFolder, ImageFolder | None, ImageFolder | None]:
    """Return the folders of the training classes, of the test classes and of those for the alphas, if there are."""
    of, strangers = _by_split(folder.folders)
    if not of["train"] or not any(folder.folders[name].folders for name in of["train"]):
        return folder, None, None
    if strangers:
        raise DataError(f"{path} holds '{of['train'][0]}' beside {strangers}: splits and classes are mixed. {LAYOUT}")
    _check_once(of, path)
    tests = [folder.folders[names[0]] for split in _TEST_SPLITS if (names := of[split])]
    labelled = [test for test in tests if test.folders]  # a flat one is what somebody is to predict
    train = _within(folder.folders[of["train"][0]])
    test, valid = [
        part if part is None or set(part.folders) & set(train.folders) else _within(part)
        for part in [*(labelled or tests), None, None][:2]
    ]
    return train, test, valid


def chosen_splits(names: Collection[str], path: Path) -> dict[str, str]:
    """Return which of several data sets is the "train", "test" and "valid" part, chosen as of folders.

    Raises:
        DataError: None is called train, or two are called for one part.
    """
    of, strangers = _by_split(names)
    _check_once(of, path)
    if not of["train"]:
        raise DataError(f"{path} has the parts {sorted(names)}, of which none is called train. Rename one.")
    if strangers:
        warnings.warn(f"The parts {strangers} of {path} are left out.", stacklevel=3)
    tests = [of[split][0] for split in _TEST_SPLITS if of[split]]
    return dict(zip(("train", "test", "valid"), (of["train"][0], *tests), strict=False))


def _by_split(names: Collection[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Return the names that stand for each part of a data set, and those that stand for none."""
    exact = {name: _SPLITS.get(name.lower()) for name in names}
    called = exact if "train" in exact.values() else {name: split_of(name) for name in names}
    of = {split: [name for name in sorted(called) if called[name] == split] for split in ("train", *_TEST_SPLITS)}
    return of, sorted(name for name, split in called.items() if split is None)


def _check_once(of: Mapping[str, list[str]], path: Path) -> None:
    if twice := next((names for names in of.values() if len(names) > 1), None):
        raise DataError(f"{path} has the folders {twice} for one part of the data. Join them, or move one elsewhere.")


def _within(split: ImageFolder) -> ImageFolder:
    """Return the folder of the classes, which may have another around it."""
    while len(split.folders) == 1 and not split.images:
        (only,) = split.folders.values()
        if len(only.folders) < 2 or only.images:
            break
        split = only
    return split


def _check_no_annotations(folder: ImageFolder, path: Path) -> None:
    """Refuse images beside what somebody marked in them, boxes or masks: these are no classes."""
    called = {name.lower(): name for name in sorted(folder.folders)}
    if (pictures := _PICTURES & called.keys()) and (marked := _MARKED & called.keys()):
        raise DataError(
            f"{path} has the folder '{called[min(pictures)]}' of images beside '{called[min(marked)]}' of what is "
            f"marked in them, which are no classes. Read masks in a function of yours and give FILE.py:NAME as the "
            f"data (the task is then segmentation); boxes are not learnt. {LAYOUT}"
        )


def _check_no_splits(folder: ImageFolder, path: Path) -> None:
    """Refuse folders that are the parts of the data: of images of no class, or all with the same folders in them."""
    if all(split_of(name) for name in folder.folders):
        raise DataError(
            f"{path} has the folders {sorted(folder.folders)}, which are called as parts of the data but hold no class "
            f"folders for training, so that nothing says what the images show. {LAYOUT} {_ELSEWHERE}"
        )
    inner = [set(below.folders) for below in folder.folders.values()]
    if any(below.images for below in folder.folders.values()):
        return
    if len(inner[0]) > 1 and all(below == inner[0] for below in inner):
        raise DataError(
            f"{path} has the folders {sorted(folder.folders)}, which hold no images themselves but all the same "
            f"folders {sorted(inner[0])}: either are the classes. Call the parts of the data train and test, or give "
            f"PATH as the folder of the classes."
        )


def _labelled(folder: ImageFolder, classes: tuple[str, ...]) -> tuple[list[StoredImage], Tensor]:
    images: list[StoredImage] = []
    targets: list[int] = []
    for label, name in enumerate(classes):
        of_class = folder.folders[name].all_images() if name in folder.folders else []
        images += of_class
        targets += [label] * len(of_class)
    return images, torch.tensor(targets, dtype=torch.int64)
