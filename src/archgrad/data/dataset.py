"""A data set ready to search on and to retrain on."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from archgrad.data.alike import check_alike
from archgrad.data.augment import LARGEST_PIXEL, Augmentation, ImageTransform, channel_statistics
from archgrad.data.decode import Fit
from archgrad.data.samples import (
    Collate,
    LabelledSamples,
    TensorSamples,
    as_samples,
    joined_samples,
    pair_of,
    size_of,
    targets_of,
)
from archgrad.data.seeds import kept_randomness
from archgrad.data.split import grouped_halves, numbered_groups, numbered_times, ordered_halves, stratified_halves
from archgrad.data.table_encoding import TableEncoding, standardised_on
from archgrad.errors import DataError
from archgrad.input_checks import has_channels_last
from archgrad.json_text import is_unicode


class Part(NamedTuple):
    """Some samples of a data set."""

    samples: Dataset
    indices: Tensor
    """(n,) int64, which of them."""

    given: bool = False
    """Whether they are those of `Data.valid`."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """Training and test samples with what is known about them; made by `load`, `as_data` or `Data.from_datasets`."""

    name: str
    """What the data is called in run folders and messages."""

    train: Dataset
    """(input, target) pairs for training; uint8 images (C, H, W), or inputs of any kind."""

    test: Dataset | None = None
    """Pairs for the final report only; None where there are none."""

    valid: Dataset | None = None
    """Pairs that the alphas of a search learn from; None takes a part of `train`."""

    groups: Tensor | None = None
    """(N,) int64, the patient, user, ... of each training sample: the halves of a search have none in common."""

    times: Tensor | None = None
    """(N,) when each training sample was taken: the alphas of a search learn from the latest."""

    classes: tuple[str, ...] = ()
    """Names of the classes 0, 1, ...; empty where targets are not class numbers."""

    channels: int = 0
    """Colour channels of an image; 0 where inputs are not images."""

    image_size: int = 0
    """Height of an image in pixels; 0 where inputs are not images."""

    in_features: int = 0
    """Length of an input that is one vector (F,); 0 where inputs are not."""

    sensors: int = 0
    """Channels of an input that is a series (sensors, time); 0 where inputs are not."""

    mean: tuple[float, ...] = ()
    """Mean of each channel over the training images, for pixels in [0, 1]; empty for no normalisation."""

    std: tuple[float, ...] = ()
    """Standard deviation of each channel, as for `mean`."""

    augmentation: Augmentation = field(default_factory=Augmentation)
    """What may be done at random to a training image."""

    fit: Fit = "crop"
    """How image files of another shape were brought to that of the images."""

    encoding: TableEncoding | None = None
    """How rows of a table become inputs; `encoding.encode(FILE)` does so with new ones. None of other data."""

    def __post_init__(self) -> None:
        for name in self.classes:
            if isinstance(name, str) and not is_unicode(name):
                raise DataError(
                    f"The names of classes must be Unicode text, as they are written to files, but {self.name!a} has "
                    f"the class {name!a}. Rename it, or its folder."
                )
        if sum(given is not None for given in (self.valid, self.groups, self.times)) > 1:
            raise DataError(
                "Give one of valid, groups and times: each says itself which samples the alphas learn from."
            )

    @cached_property
    def bits(self) -> int:
        """Of a channel of a pixel: 16 where images are stored with as many, else 8."""
        with kept_randomness():
            first, _ = pair_of(self.train, 0)
        return 16 if self.channels and getattr(first, "dtype", None) in (torch.uint16, np.uint16) else 8

    @cached_property
    def train_targets(self) -> Tensor:
        """(N,) targets of the training samples."""
        return targets_of(self.train)

    @cached_property
    def learnt_targets(self) -> Tensor:
        """(M,) targets of the training samples and of those in `valid`: all that a search learns from."""
        return self.train_targets if self.valid is None else torch.cat([self.train_targets, targets_of(self.valid)])

    def halves(self, *, fraction: float, seed: int) -> tuple[Part, Part]:
        """Return the samples that the weights of a search learn from, and those that the alphas learn from.

        The numbers of a table are standardised over the samples for the weights alone, so that these tell nothing of
        the others.

        Args:
            fraction: Share of the training samples for the weights, between 0 and 1; of no use where `valid` is given.
            seed: Of the split, as far as it is random.

        Raises:
            DataError: The groups are too few, or there is a single sample.
        """
        if self.valid is not None:
            count = size_of(self.valid)
            every = torch.arange(len(self.train_targets))
            train, valid = (self._standardised(samples, every) for samples in (self.train, self.valid))
            return Part(train, every), Part(valid, torch.arange(count), given=True)
        if self.times is not None:
            first, second = ordered_halves(self.times, fraction=fraction)
        elif self.groups is not None:
            first, second = grouped_halves(self.train_targets, self.groups, fraction=fraction, seed=seed)
        else:
            first, second = stratified_halves(self.train_targets, fraction=fraction, seed=seed)
        samples = self._standardised(self.train, first)
        return Part(samples, first), Part(samples, second)

    def _standardised(self, samples: Dataset, rows: Tensor) -> Dataset:
        """Standardise inputs of a table by the training samples `rows`; other samples are returned as they are."""
        train, encoding = self.train, self.encoding
        if encoding is None or not isinstance(train, TensorSamples) or not isinstance(samples, TensorSamples):
            return samples
        for each in (train.inputs, samples.inputs):
            if not isinstance(each, Tensor) or each.shape[1:] != (len(encoding.inputs),):
                return samples  # put in the place of the table's
        return TensorSamples(standardised_on(encoding, train.inputs[rows], samples.inputs), samples.targets)

    def take(self, indices: Tensor) -> "Data":
        """Return the same data with some of the training samples, (n,) int64, in that order."""
        return replace(
            self,
            train=as_samples(Subset(self.train, indices.tolist())),
            groups=None if self.groups is None else self.groups[indices],
            times=None if self.times is None else self.times[indices],
        )

    def whole(self) -> "Data":
        """Return the same data with the samples of `valid` among the training samples, as a retraining has them."""
        if self.valid is None:
            return self
        return replace(self, train=joined_samples(self.train, self.valid), valid=None)

    def training_transform(
        self, *, cutout: int | None = None, dtype: torch.dtype = torch.float32, channels_last: bool = False
    ) -> ImageTransform | None:
        """Make the transform for training batches.

        Args:
            cutout: Side of the cutout square in pixels; the data's own by default.
            dtype: Of the images that come out.
            channels_last: Lay them out in channels_last memory format.

        Returns:
            The transform; None where the inputs are used as they are.

        Raises:
            DataError: Cutout is asked for inputs that are not images.
        """
        augmentation = self.augmentation if cutout is None else replace(self.augmentation, cutout=cutout)
        if not self.channels and augmentation.cutout:
            raise DataError(f"Cutout is for images, but the inputs of {self.name!r} are none. Give cutout=0.")
        return self._transform(augmentation, dtype, channels_last)

    def evaluation_transform(
        self, *, dtype: torch.dtype = torch.float32, channels_last: bool = False
    ) -> ImageTransform | None:
        """Make the transform for evaluation batches, where nothing is random; arguments as `training_transform`."""
        return self._transform(Augmentation(), dtype, channels_last)

    def _transform(self, augmentation: Augmentation, dtype: torch.dtype, channels_last: bool) -> ImageTransform | None:
        if not self.channels:
            return None
        return ImageTransform(
            augmentation=augmentation, mean=self.mean, std=self.std, dtype=dtype, channels_last=channels_last
        )

    @classmethod
    def from_datasets(
        cls,
        train: Dataset,
        test: Dataset | None = None,
        *,
        valid: Dataset | None = None,
        groups: Sequence[Any] | np.ndarray | Tensor | None = None,
        times: Sequence[float] | np.ndarray | Tensor | None = None,
        collate: Collate | None = None,
        classes: Sequence[str] | None = None,
        name: str = "custom",
        augmentation: Augmentation | None = None,
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
    ) -> "Data":
        """Make data of any map-style data sets; inputs need not be images.

        Args:
            train: (input, target) pairs; inputs are tensors, or tuples and dicts of tensors, targets class numbers or
                floats. An `IterableDataset` is read once and kept in memory, with what is random in it.
            test: The same for the final report.
            valid: The same for the alphas of a search; by default a part of `train`. A retraining learns from both.
            groups: (N,) numbers or names: whom or what each training sample comes from. No group is in both halves.
            times: (N,) numbers or dates that say in which order the training samples were taken. The alphas learn from
                the latest.
            collate: Function of a list of (input, target) pairs that returns (inputs, targets) of their batch, with a
                tensor of targets, for samples that cannot be joined as they are: of unequal lengths, graphs, ...
                Inputs may be anything that the network takes.
            classes: Names of the classes; those that the data set itself tells, or "0", "1", ... by default.
            name: What the data is called.
            augmentation: For image tensors (C, H, W); none by default.
            mean: Of each channel, for normalisation; measured where images in memory are uint8 or uint16, else none.
            std: As for `mean`.

        Returns:
            The data.

        Raises:
            DataError: The data is empty, not made of pairs, has a single class, or a target outside the classes.
        """
        train = _labelled(as_samples(train), collate)
        test = None if test is None else _labelled(as_samples(test), collate)
        valid = None if valid is None else _labelled(as_samples(valid), collate)
        with kept_randomness():
            first, _ = pair_of(train, 0)
        if valid is not None:
            check_alike(train, valid, first)
        channels, image_size = _image_shape(first, asked=augmentation is not None or len(mean) > 0)
        if channels and not mean and isinstance(train, TensorSamples) and train.inputs.dtype in LARGEST_PIXEL:
            mean, std = channel_statistics(train.inputs)
        if not channels and (augmentation is not None or len(mean)):
            raise DataError(
                f"Augmentation and normalisation are for images (C, H, W), but the inputs of {name!r} are none."
            )
        return cls(
            name=name,
            train=train,
            test=test,
            valid=valid,
            groups=None if groups is None else numbered_groups(groups, size_of(train)),
            times=None if times is None else numbered_times(times, size_of(train)),
            classes=_class_names(train, {"test": test, "validation": valid}, classes),
            channels=channels,
            image_size=image_size,
            in_features=_first_size(first, dims=1),
            sensors=_first_size(first, dims=2),
            mean=tuple(mean),
            std=tuple(std),
            augmentation=augmentation or Augmentation(),
        )


def _labelled(samples: Dataset, collate: Collate | None) -> Dataset:
    """Check the first sample, and make sure that the targets need not be read again."""
    count = size_of(samples)
    if collate is not None:
        try:
            targets = targets_of(samples)
        except DataError:
            targets = torch.zeros(count, 0)  # of unequal lengths: nothing is known of them before they are a batch
        return LabelledSamples(samples, targets, collate)
    if isinstance(samples, TensorSamples | LabelledSamples):
        return samples
    with kept_randomness():
        first, _ = pair_of(samples, 0)
    if hasattr(first, "getbands"):  # a PIL image
        raise DataError(
            f"The inputs of {type(samples).__name__} are PIL images, which cannot be joined to batches. Give the data "
            f"set transform=torchvision.transforms.ToTensor()."
        )
    return LabelledSamples(samples, targets_of(samples))


def _image_shape(first: Any, *, asked: bool) -> tuple[int, int]:
    """Return channels and height of images (C, H, W), else zeros.

    Whole numbers of other types than those of image files are words or counts, unless images are asked for.
    """
    shape = tuple(first.shape) if isinstance(first, Tensor | np.ndarray) else ()
    if len(shape) == 3 and has_channels_last(shape):
        if first.dtype in (torch.uint8, np.uint8):
            raise DataError(
                f"Images must have the shape (channels, height, width), but a sample has {shape}. Give x.movedim(3, 1) "
                f"of all images, or of one x.movedim(2, 0)."
            )
        if shape[0] == shape[1]:
            warnings.warn(
                f"The inputs of shape {shape} are read as images of {shape[0]} channels, {shape[1]} pixels high and "
                f"{shape[2]} wide. If their channels come last, give x.movedim(3, 1) of all images.",
                stacklevel=4,
            )
    if not asked and len(shape) == 3 and str(first.dtype).removeprefix("torch.").startswith(("int", "bool", "uint32")):
        return 0, 0
    return (shape[0], shape[1]) if len(shape) == 3 else (0, 0)


def _first_size(first: Any, *, dims: int) -> int:
    """Return the first size of an input of numbers with a fraction and so many dimensions, else 0."""
    if not isinstance(first, Tensor | np.ndarray) or first.ndim != dims:
        return 0
    return len(first) if "float" in str(first.dtype) else 0


def _class_names(train: Dataset, others: Mapping[str, Dataset | None], given: Sequence[str] | None) -> tuple[str, ...]:
    targets = targets_of(train)
    if targets.is_floating_point() or targets.ndim != 1:
        if given is not None:
            raise DataError(
                "Class names go with whole-number targets of shape (N,), but the targets are not. Leave them out."
            )
        return ()
    check_class_targets(targets, None, "training")
    if given is None:
        own = getattr(getattr(train, "samples", train), "classes", None)
        count = int(targets.max()) + 1
        fits = isinstance(own, list | tuple) and len(own) >= count
        given = [str(label) for label in own] if own is not None and fits else [str(label) for label in range(count)]
    check_class_targets(targets, len(given), "training")
    for what, part in others.items():
        if part is not None:
            check_class_targets(targets_of(part), len(given), what)
    return tuple(given)


def check_class_targets(targets: Tensor, classes: int | None, what: str) -> None:
    """Refuse targets that a classifier cannot be trained on.

    Args:
        targets: (N,) int64.
        classes: Number of classes; None to only refuse negative targets and a single class.
        what: "training", "test" or "validation", for the message; only training data needs two classes.

    Raises:
        DataError: A target is out of range, or all training targets are the same.
    """
    if targets.is_floating_point() or targets.ndim != 1:
        raise DataError(f"The {what} targets must be whole numbers of shape (N,), as the others, but they are not.")
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or (classes is not None and high >= classes):
        limit = "at least 0" if classes is None else f"in 0..{classes - 1} ({classes} classes)"
        raise DataError(
            f"Targets must be {limit}, but the {what} targets reach from {low} to {high}. Renumber the classes."
        )
    if what == "training" and low == high:
        raise DataError(
            f"Training needs at least 2 classes, but all {len(targets)} targets are {low}. Give data with more."
        )
