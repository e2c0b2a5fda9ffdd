"""Images in class folders, or a tar of them, as data."""

import json
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.utils.data import Dataset

from archgrad.checks import check_word
from archgrad.data.archive import TAR_SUFFIXES, decompress, is_tar, read_tar
from archgrad.data.augment import Augmentation, channel_statistics, statistics_of_histogram
from archgrad.data.cache import key_of, load_tensors, make_file_once, only_process, save_tensors, save_text
from archgrad.data.class_targets import check_class_targets
from archgrad.data.dataset import Data
from archgrad.data.decode import FITS, LARGEST_SIDE, Fit, Header, ImageFiles
from archgrad.data.decode_many import UnreadableImagesError, decode_all, pixel_histogram, read_headers
from archgrad.data.image_cache import hold, make_room
from archgrad.data.listing import LAYOUT, Listing, StoredImage, list_classes, read_folder
from archgrad.data.samples import TensorSamples
from archgrad.errors import ArchitectureError, DataError, OptionError
from archgrad.files import read_file
from archgrad.json_text import parse_json, shown
from archgrad.machine import machine_memory
from archgrad.sizes import check_whole

_FORMAT = "archgrad.images.3"
_MOST_FACTS = 2**16  # bytes
_WORTH_TELLING = 0.3  # of the longer side; camera pictures of 4:3 lose a quarter
_SURVEY_IMAGES = 1000  # this many, evenly spaced, let us guess the size of all
_STATISTICS_IMAGES = 10_000  # where images stay in their files, this many, evenly spaced, tell mean and std


ImageSize = int | tuple[int, int]
"""Height and width in pixels, one number for both or two."""

ImageAugmentation = Literal["shift", "imagenet", "none"]
"""What is done at random to training images: "shift" moves them by up to an eighth of their side and mirrors half of
them, as is usual for CIFAR-10; "imagenet" takes a random part of each, mirrors half of them, and changes their colours;
"none" does nothing."""

_IMAGENET = Augmentation(resized_crop=224, flip=True, colour_jitter=(0.4, 0.4, 0.4, 0.2))  # as Liu et al. 2019
_WHOLE = 8 / 7  # of the side that a network sees: 256 of 224


def load_folder(
    path: Path,
    *,
    root: Path,
    image_size: ImageSize | None = None,
    memory_limit: int | None = None,
    fit: Fit = "crop",
    augmentation: ImageAugmentation = "shift",
    skip_unreadable: bool = False,
    channels: int | None = None,
    listing: Listing | None = None,
) -> Data:
    """Load images from class folders, or from a tar of them.

    A tar is unpacked once and images are decoded once, into the cache. Grey images of 16 bits keep them, and then all
    images have 16.

    Args:
        path: A folder or a tar with train/<class>/ and test/<class>/ (or val/), or with <class>/ alone: then a fifth of
            each class, the same in each run, becomes the test set. Of train, test and val, val is for the alphas of a
            search.
        root: Folder of the cache.
        image_size: Height and width in pixels, one number or two, each at least 1; by default the shorter side that
            half the images have, else the median one, for both; with augmentation "imagenet" 224.
        memory_limit: Bytes that decoded images may take in memory; beyond it they are read from their files each time.
            A quarter of the machine's memory by default.
        fit: What is done to images of another shape: "crop" cuts out their central part, "squash" squeezes them, "pad"
            adds black borders.
        augmentation: What is done at random to training images: "shift", "imagenet" or "none" (see
            `ImageAugmentation`). With "imagenet" files are brought to 8/7 of `image_size`, 256 for 224; training sees
            random parts of that, brought to `image_size`, and tests the central square.
        skip_unreadable: Leave out images that cannot be read, with a warning that counts them. This decodes all of them
            once, also where they are too many for the memory.
        channels: 1 for grey images, 3 for colour; by default 3 if one of the training images has colours.
        listing: Of the images, where the folder is not one of class folders; by default it is looked through.

    Returns:
        The data, with mean and std measured on the training images.

    Raises:
        DataError: There is no such folder, it is not laid out so, or images are corrupt or refused, all of which are
            named together.
        OptionError: An option is outside its range.
    """
    for side in (image_size,) if isinstance(image_size, int) else image_size or ():
        check_whole("image_size", side, least=1, most=LARGEST_SIDE)
    if isinstance(image_size, tuple) and len(image_size) != 2:
        raise OptionError(f"image_size must be one number, or height and width, but got {image_size}.")
    check_word("fit", fit, FITS)
    if channels not in (None, 1, 3):
        raise OptionError(f"channels must be 1 for grey images or 3 for colour, but got {channels}.")
    if memory_limit is not None:
        check_whole("memory_limit", memory_limit, least=0, most=2**63 - 1)
    check_word("augmentation", augmentation, get_args(ImageAugmentation))
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    changes = None if augmentation == "shift" else Augmentation()
    if augmentation == "imagenet":
        side = _IMAGENET.resized_crop if size is None else size[0]
        if size not in (None, (side, side)):
            raise OptionError(
                f"augmentation='imagenet' takes square parts of images, but got image_size={image_size}. Give one "
                f"number, or another augmentation."
            )
        changes, stored = replace(_IMAGENET, resized_crop=side), round(side * _WHOLE)
        check_whole("8/7 of image_size", stored, least=side, most=LARGEST_SIDE)
        size = (stored, stored)
    try:
        limit = _quarter_of_memory() if memory_limit is None else memory_limit
        loader = _Loader(path, root, size, limit, fit, channels, changes)
        return loader.load(skip_unreadable, listing)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}. Check that it is there and may be read.") from error


@dataclass
class _Facts:
    """What is measured on the images."""

    channels: int
    height: int
    width: int
    bits: int = 8
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    left_out: int = 0
    """Images that could not be read."""

    @property
    def form(self) -> tuple[int, int, int, int]:
        """What images are brought to."""
        return self.channels, self.height, self.width, self.bits

    @property
    def bytes(self) -> int:
        """That an image takes."""
        return self.channels * self.height * self.width * self.bits // 8


@dataclass
class _Loader:
    """Loads one folder or tar; the fields are those of `load_folder`, and `size` that of the images that are kept."""

    path: Path
    root: Path
    size: tuple[int, int] | None
    limit: int
    fit: Fit
    channels: int | None
    augmentation: Augmentation | None
    """None is "shift", which goes by the size of the images."""

    def load(self, skip: bool, listing: Listing | None) -> Data:
        path = self.path
        stamp: tuple[object, ...]
        if path.is_dir():
            listing = list_classes(read_folder(path), path) if listing is None else listing
            stamp = (
                path.resolve(),
                *listing.train,
                *listing.test,
                *(("valid", *listing.valid) if listing.valid else ()),
            )
        elif path.is_file() and is_tar(path):
            stamp = (path.resolve(), path.stat().st_size, path.stat().st_mtime_ns)
        else:
            what = "is neither a folder nor a tar" if path.exists() else "does not exist"
            raise DataError(
                f"{path} {what}. Give folder:PATH with a folder or a tar ({', '.join(TAR_SUFFIXES)}). {LAYOUT}"
            )
        of_channels = () if self.channels is None else (f"{self.channels} channels",)
        decoded = (
            self.root / "decoded" / f"{key_of(_FORMAT, self.size, self.fit, skip, *of_channels, *stamp)}.safetensors"
        )
        if (data := self._from_cache(decoded)) is not None:
            return data
        with only_process(decoded):
            if (data := self._from_cache(decoded)) is not None:  # made while we waited
                return data
            if listing is None:
                plain = self.root / "unpacked" / f"{key_of(*stamp)}.tar"
                while not hold(make_file_once(plain, partial(decompress, path))):
                    pass  # removed by another process just now
                listing = list_classes(read_tar(plain, path), path)
            data = self._decoded(listing, decoded, skip)
        make_room(self.root)
        return data

    def _decoded(self, listing: Listing, file: Path, skip: bool) -> Data:
        left_out = 0
        while True:  # headers may be whole where images are not
            try:
                return self._from_images(listing, file, left_out, all_once=skip)
            except UnreadableImagesError as error:
                if not skip:
                    raise
                images = listing.images
                listing = listing.without({images[index].name for index in error.indices})
                left_out += len(error.indices)
            for label, name in enumerate(listing.classes):
                if not bool((listing.train_targets == label).any()):
                    raise DataError(f"{self.path} has no readable training image of the class {shown(name)}. Add some.")

    def _from_images(self, listing: Listing, file: Path, left_out: int, *, all_once: bool) -> Data:
        known = _load_facts(file.with_suffix(".json"))
        if known is not None and known.left_out != left_out:
            known = None  # which are left out is found again
        guess = known or self._facts_of(_headers_of_some(listing))
        while len(listing.images) * guess.bytes <= self.limit:
            of_parts = self._decode_parts(listing, guess)
            pixels, headers = of_parts["train"]
            facts = self._facts_of(headers)
            if facts.form != guess.form:
                guess = facts  # wrong for once, so decode again, unless that no longer fits
                continue
            self._tell_what_is_cut(headers, facts)
            self._tell_blank(pixels, listing)
            facts.mean, facts.std = channel_statistics(pixels)
            facts.left_out = left_out
            self._tell_left_out(facts)
            samples: dict[str, Dataset] = {}
            tensors: dict[str, Tensor] = {}
            for name, (_, targets) in listing.parts().items():
                inputs = of_parts[name][0]
                tensors |= {f"{name}_inputs": inputs, f"{name}_targets": targets}
                samples[name] = TensorSamples(inputs, targets)
            save_tensors(file, tensors, {"classes": json.dumps(listing.classes), "facts": json.dumps(asdict(facts))})
            return self._data(samples, listing.classes, facts)

        headers = [] if known else read_headers(listing.images)[: len(listing.train)]
        facts = known or self._facts_of(headers)
        form = self._form(facts)
        if known is None:
            if all_once:
                pixel_histogram(listing.images, **form)
            self._tell_what_is_cut(headers, facts)
            some = _evenly_spaced(listing.train, _STATISTICS_IMAGES)
            facts.mean, facts.std = statistics_of_histogram(pixel_histogram(some, **form))
            facts.left_out = left_out
            save_text(file.with_suffix(".json"), json.dumps(asdict(facts)))
        self._tell_left_out(facts)
        parts = {name: ImageFiles(images, targets, **form) for name, (images, targets) in listing.parts().items()}
        return self._data(parts, listing.classes, facts)

    def _form(self, facts: _Facts) -> dict[str, Any]:
        return {
            "image_size": (facts.height, facts.width),
            "channels": facts.channels,
            "bits": facts.bits,
            "fit": self.fit,
        }

    def _decode_parts(self, listing: Listing, facts: _Facts) -> dict[str, tuple[Tensor, list[Header]]]:
        """Decode each part; all images that cannot be read are told together."""
        found: dict[str, tuple[Tensor, list[Header]]] = {}
        reasons: dict[int, str] = {}
        first = 0
        for name, (images, _) in listing.parts().items():
            try:
                found[name] = decode_all(images, **self._form(facts))
            except UnreadableImagesError as error:
                reasons |= {first + index: reason for index, reason in error.reasons.items()}
            first += len(images)
        if reasons:
            raise UnreadableImagesError(reasons, first)
        return found

    def _facts_of(self, headers: list[Header]) -> _Facts:
        sides = Counter(header.side for header in headers)
        typical, shared = sides.most_common(1)[0]
        if 2 * shared < len(headers):  # else a few thumbnails of one size could stand against photos of many sizes
            typical = sorted(sides.elements())[(len(headers) - 1) // 2]
        return _Facts(
            self.channels or (3 if any(header.colour for header in headers) else 1),
            *(self.size or (typical, typical)),
            bits=max(header.bits for header in headers),
        )

    def _tell_what_is_cut(self, headers: list[Header], facts: _Facts) -> None:
        shares = [header.cut(facts.height, facts.width) for header in headers] if self.fit == "crop" else []
        if cut := [share for share in shares if share > _WORTH_TELLING]:
            part = "square" if facts.height == facts.width else f"part of {facts.height}x{facts.width}"
            warnings.warn(
                f"{len(cut)} of {len(headers)} training images of {self.path} have another shape; of each, only the "
                f"central {part} is used, which leaves out up to {max(cut):.0%} of it. If what they show may lie "
                f"there, give fit='pad' or fit='squash' (on the command line --fit), or an image_size of two numbers.",
                stacklevel=2,
            )

    def _tell_blank(self, pixels: Tensor, listing: Listing) -> None:
        flat = pixels.flatten(1).numpy()
        blank = (flat == flat[:, :1]).all(1).nonzero()[0]
        if len(blank):
            warnings.warn(
                f"{len(blank)} of {len(flat)} training images of {self.path} are of one colour all over, such as "
                f"{shown(listing.train[blank[0]].name)}. What is drawn in their transparency alone is not seen: put "
                f"them on a background.",
                stacklevel=2,
            )

    def _tell_left_out(self, facts: _Facts) -> None:
        if facts.left_out:
            what = "1 image" if facts.left_out == 1 else f"{facts.left_out} images"
            warnings.warn(f"{what} of {self.path} cannot be read and left out.", stacklevel=2)

    def _from_cache(self, decoded: Path) -> Data | None:
        """Read the decoded images back; None where there are none, they are damaged, or they are too many."""
        if not decoded.is_file() or decoded.stat().st_size > self.limit:
            return None
        if (stored := load_tensors(decoded)) is None:
            return None
        tensors, metadata = stored
        hold(decoded)
        try:
            classes = tuple(str(name) for name in parse_json(metadata["classes"]))
            facts = _facts_from(parse_json(metadata["facts"]))
            names = ["train", "test", *(["valid"] if "valid_inputs" in tensors else [])]
            parts = {name: TensorSamples(tensors[f"{name}_inputs"], tensors[f"{name}_targets"]) for name in names}
            dtype = torch.uint16 if facts.bits == 16 else torch.uint8
            for name, samples in parts.items():
                check_class_targets(samples.targets, len(classes), {"train": "training"}.get(name, name))
                if samples.inputs.dtype != dtype or samples.inputs.shape[1:] != facts.form[:3]:
                    return None
        except (KeyError, TypeError, ValueError, DataError, ArchitectureError):
            return None
        self._tell_left_out(facts)
        return self._data(parts, classes, facts)

    def _data(self, parts: Mapping[str, Dataset], classes: tuple[str, ...], facts: _Facts) -> Data:
        # 4 at 32 pixels, as for CIFAR-10
        shift = Augmentation(crop_padding=min(facts.height, facts.width) // 8, flip=True)
        augmentation = self.augmentation or shift
        return Data(
            name=f"folder:{self.path}",
            train=parts["train"],
            test=parts["test"],
            valid=parts.get("valid"),
            classes=classes,
            channels=facts.channels,
            image_size=augmentation.resized_crop or facts.height,
            mean=facts.mean,
            std=facts.std,
            fit=self.fit,
            augmentation=augmentation,
        )


def _headers_of_some(listing: Listing) -> list[Header]:
    """Read the headers of some training images; those that cannot be read are told with all others, later."""
    try:
        return read_headers(_evenly_spaced(listing.train, _SURVEY_IMAGES))
    except UnreadableImagesError as error:
        return error.headers or read_headers(listing.images)


def _evenly_spaced(images: list[StoredImage], most: int) -> list[StoredImage]:
    return images[:: -(-len(images) // most)]


def _load_facts(file: Path) -> _Facts | None:
    try:
        return _facts_from(parse_json(read_file(file, most=_MOST_FACTS).decode("utf-8")))
    except (OSError, KeyError, TypeError, ValueError, ArchitectureError):
        return None


def _facts_from(stored: Any) -> _Facts:
    facts = _Facts(
        int(stored["channels"]),
        int(stored["height"]),
        int(stored["width"]),
        int(stored["bits"]),
        tuple(float(value) for value in stored["mean"]),
        tuple(float(value) for value in stored["std"]),
        int(stored["left_out"]),
    )
    right = facts.channels in (1, 3) and 1 <= facts.height <= LARGEST_SIDE and 1 <= facts.width <= LARGEST_SIDE
    right = right and facts.bits in (8, 16) and facts.left_out >= 0
    right = right and {len(facts.mean), len(facts.std)} == {facts.channels}
    if not right or not all(std > 0 for std in facts.std):
        raise ValueError("not the facts of images")
    return facts


def _quarter_of_memory() -> int:
    memory = machine_memory()
    return 2**31 if memory is None else memory // 4
