"""Which images there are, and of which class: folders on disk or inside a tar."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from archgrad.data.split import stratified_halves
from archgrad.errors import DataError
from archgrad.json_text import shown

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"))
"""Files with these suffixes are images."""

DEEPEST = 64
"""Most folders inside each other."""

LAYOUT = (
    "Expected are PATH/train/<class>/*.jpg and PATH/test/<class>/*.jpg, or PATH/<class>/*.jpg alone (a fifth of which "
    "becomes the test set)."
)
"""How class folders are laid out, for messages."""

_TEST_NAMES = ("test", "val")


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

    def folder(self, name: str) -> "ImageFolder":
        """Return the folder of that name, made on first use."""
        return self.folders.setdefault(name, ImageFolder())

    def all_images(self) -> list[StoredImage]:
        """List the images here and at any depth below, in order of name."""
        found = [self.images[name] for name in sorted(self.images)]
        for name in sorted(self.folders):
            found += self.folders[name].all_images()
        return found


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Images of a training and a test set, in order of class and name."""

    classes: tuple[str, ...]
    train: list[StoredImage]
    train_targets: Tensor
    test: list[StoredImage]
    test_targets: Tensor


def is_image(name: str) -> bool:
    """Whether a file of that name is listed."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def read_folder(path: Path, *, depth: int = 0) -> ImageFolder:
    """List a folder on disk; links to folders are not followed.

    Args:
        path: The folder.
        depth: How many folders lie around it already.

    Raises:
        DataError: Folders lie more than `DEEPEST` inside each other.
        OSError: One cannot be read.
    """
    if depth > DEEPEST:
        raise DataError(
            f"{shown(str(path))} lies more than {DEEPEST} folders deep. Name a folder nearer to the images."
        )
    found = ImageFolder()
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if not entry.name.startswith("."):
                    found.folders[entry.name] = read_folder(Path(entry.path), depth=depth + 1)
            elif is_image(entry.name) and entry.is_file():
                stat = entry.stat()
                found.images[entry.name] = StoredImage(Path(entry.path), entry.path, 0, stat.st_size, stat.st_mtime_ns)
    return found


def list_classes(folder: ImageFolder, path: Path) -> Listing:
    """Find out classes, training and test images.

    Args:
        folder: train/<class>/ and test/<class>/ (or val/), or <class>/ alone: then a fifth of each class, always the
            same, becomes the test set. It may have one folder around all of it.
        path: For messages.

    Returns:
        The images; classes in order of name.

    Raises:
        DataError: It is not laid out so, a class has no images, or there are fewer than two.
    """
    while len(folder.folders) == 1 and "train" not in folder.folders and next(iter(folder.folders.values())).folders:
        folder = next(iter(folder.folders.values()))
    train_folder, test_folder = folder, None
    if "train" in folder.folders and folder.folders["train"].folders:
        train_folder = folder.folders["train"]
        test_folder = next((folder.folders[name] for name in _TEST_NAMES if name in folder.folders), None)
        if strangers := sorted(set(folder.folders) - {"train", *_TEST_NAMES}):
            raise DataError(f"{path} holds 'train' beside {strangers}: splits and classes are mixed. {LAYOUT}")
    classes = tuple(sorted(train_folder.folders))
    if len(classes) < 2:
        raise DataError(
            f"{path} holds {len(classes)} class folders {list(classes)}, but at least 2 are needed. {LAYOUT}"
        )
    train, train_targets = _labelled(train_folder, classes)
    counts = train_targets.bincount(minlength=len(classes)).tolist()
    if empty := [name for name, count in zip(classes, counts, strict=True) if not count]:
        raise DataError(f"{path} holds no images for the classes {empty}. Remove their folders, or add images.")
    if test_folder is not None:
        if strangers := sorted(set(test_folder.folders) - set(classes)):
            raise DataError(f"{path} has test images but no training images for the classes {strangers}. Add some.")
        test, test_targets = _labelled(test_folder, classes)
        if not test:
            raise DataError(f"{path} has a test folder without images. Add some, or remove it. {LAYOUT}")
    else:
        if single := [name for name, count in zip(classes, counts, strict=True) if count < 2]:
            raise DataError(f"{path} has a single image for the classes {single}; without a test folder, 2 are needed.")
        for_train, for_test = (part.sort().values for part in stratified_halves(train_targets, fraction=0.8, seed=0))
        test, test_targets = [train[index] for index in for_test], train_targets[for_test]
        train, train_targets = [train[index] for index in for_train], train_targets[for_train]
    return Listing(classes=classes, train=train, train_targets=train_targets, test=test, test_targets=test_targets)


def _labelled(folder: ImageFolder, classes: tuple[str, ...]) -> tuple[list[StoredImage], Tensor]:
    images: list[StoredImage] = []
    targets: list[int] = []
    for label, name in enumerate(classes):
        of_class = folder.folders[name].all_images() if name in folder.folders else []
        images += of_class
        targets += [label] * len(of_class)
    return images, torch.tensor(targets, dtype=torch.int64)
