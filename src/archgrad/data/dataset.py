"""A data set ready to search on and to retrain on."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from archgrad.data.alike import check_alike
from archgrad.data.augment import LARGEST_PIXEL, Augmentation, ImageTransform, channel_statistics
from archgrad.data.class_targets import class_names
from archgrad.data.decode import Fit
from archgrad.data.samples import (
    Collate,
    LabelledSamples,
    TensorSamples,
    as_samples,
    joined_samples,
    pair_of,
    sample_weights_of,
    size_of,
    targets_of,
)
from archgrad.data.seeds import kept_randomness
from archgrad.data.split import (
    fold_numbers,
    grouped_halves,
    numbered_groups,
    numbered_times,
    ordered_halves,
    stratified_halves,
)
from archgrad.data.table_encoding import TableEncoding, measured_on
from archgrad.data.triples import pairs_of
from archgrad.errors import DataError
from archgrad.input_checks import has_channels_last
from archgrad.json_text import is_unicode
from archgrad.sizes import check_whole


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
    """Height of an image in pixels, as a network gets it; 0 where inputs are not images."""

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
    def takes_tokens(self) -> bool:
        """Whether an input is one sequence of whole numbers (T,), such as words."""
        with kept_randomness():
            first, _ = pair_of(self.train, 0)
        kind = str(getattr(first, "dtype", "")).removeprefix("torch.")
        return getattr(first, "ndim", 0) == 1 and kind.startswith(("int", "uint"))

    @cached_property
    def train_targets(self) -> Tensor:
        """(N,) targets of the training samples."""
        return targets_of(self.train)

    @cached_property
    def learnt_targets(self) -> Tensor:
        """(M,) targets of the training samples and of those in `valid`: all that a search learns from."""
        return self.train_targets if self.valid is None else torch.cat([self.train_targets, targets_of(self.valid)])

    @property
    def has_sample_weights(self) -> bool:
        """Whether samples of any part have weights in the loss."""
        parts = (part for part in (self.train, self.valid, self.test) if part is not None)
        return any(sample_weights_of(part) is not None for part in parts)

    def halves(self, *, fraction: float, seed: int) -> tuple[Part, Part]:
        """Return the samples that the weights of a search learn from, and those that the alphas learn from.

        What is known of the columns of a table is measured on the samples for the weights alone, so that these tell
        nothing of the others.

        Args:
            fraction: Share of the training samples for the weights, between 0 and 1; of no use where `valid` is given.
            seed: Of the split, as far as it is random.

        Raises:
            DataError: The groups are too few, or there is a single sample.
        """
        if self.valid is not None:
            count = size_of(self.valid)
            every = torch.arange(len(self.train_targets))
            train, valid = (self._measured_on(samples, every) for samples in (self.train, self.valid))
            return Part(train, every), Part(valid, torch.arange(count), given=True)
        if self.times is not None:
            first, second = ordered_halves(self.times, fraction=fraction)
        elif self.groups is not None:
            first, second = grouped_halves(self.train_targets, self.groups, fraction=fraction, seed=seed)
        else:
            first, second = stratified_halves(self.train_targets, fraction=fraction, seed=seed)
        samples = self._measured_on(self.train, first)
        return Part(samples, first), Part(samples, second)

    def _measured_on(self, samples: Dataset, rows: Tensor) -> Dataset:
        """Measure the columns of a table on the training samples `rows`; other samples are returned as they are."""
        train, encoding = self.train, self.encoding
        if encoding is None or not isinstance(train, TensorSamples) or not isinstance(samples, TensorSamples):
            return samples
        for each in (train.inputs, samples.inputs):
            if not isinstance(each, Tensor) or each.shape[1:] != (len(encoding.inputs),):
                return samples  # put in the place of the table's
        inputs = measured_on(encoding, train.inputs[rows], samples.inputs)
        return TensorSamples(inputs, samples.targets, samples.sample_weights)

    def take(self, indices: Tensor) -> "Data":
        """Return the same data with some of the training samples, (n,) int64, in that order."""
        return replace(
            self,
            train=as_samples(Subset(self.train, indices.tolist())),
            groups=None if self.groups is None else self.groups[indices],
            times=None if self.times is None else self.times[indices],
        )

    def fold(self, number: int, folds: int) -> "Data":
        """Return the same data with a part of the training samples as its test set, and the others for training.

        The parts, the same in each run, have the same share of each class and no group in common; for cross-validation
        each is the test set once. The test samples that the data has itself are in none of them. Mean and deviation of
        pixels stay those of all training images.

        Args:
            number: Of the part, from 1 to `folds`.
            folds: How many parts, at least 2.

        Raises:
            OptionError: A number is outside its range.
            DataError: The samples have an order in time, they or their groups are too few, or they are the rows of a
                table, whose folds are made by `load`.
        """
        check_whole("folds", folds, least=2)
        check_whole("the number of a fold", number, least=1, most=folds)
        if self.times is not None:
            raise DataError("Samples that are split by time have no folds, as the past would be tested on the future.")
        if self.encoding is not None:
            raise DataError("A table has folds where it is loaded: give load(..., fold=(number, folds)).")
        tested = fold_numbers(self.train_targets, folds, groups=self.groups) == number - 1
        rest, part = (which.nonzero(as_tuple=True)[0] for which in (~tested, tested))
        return replace(self.take(rest), test=self.take(part).train)

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
            DataError: Cutout is asked for inputs that are not images, or the images cannot be augmented so.
        """
        augmentation = self.augmentation if cutout is None else replace(self.augmentation, cutout=cutout)
        if not self.channels and augmentation.cutout:
            raise DataError(f"Cutout is for images, but the inputs of {self.name!r} are none. Give cutout=0.")
        if augmentation.resized_crop or augmentation.colour_jitter:
            augmentation.check(self.channels, self.train_targets)
        return self._transform(augmentation, dtype, channels_last)

    def evaluation_transform(
        self, *, dtype: torch.dtype = torch.float32, channels_last: bool = False
    ) -> ImageTransform | None:
        """Make the transform for evaluation batches, where nothing is random; arguments as `training_transform`."""
        return self._transform(Augmentation(resized_crop=self.augmentation.resized_crop), dtype, channels_last)

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
        weighted: bool = False,
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
            weighted: Samples are (input, target, weight), in each of the data sets: the losses of samples are averaged
                with these weights, numbers of at least 0. `collate` is given pairs.
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
        labelled = pairs_of if weighted else _labelled
        train = labelled(train, collate)
        test = None if test is None else labelled(test, collate)
        valid = None if valid is None else labelled(valid, collate)
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
            classes=class_names(train, {"test": test, "validation": valid}, classes),
            channels=channels,
            image_size=(augmentation and augmentation.resized_crop) or image_size,
            in_features=_first_size(first, dims=1),
            sensors=_first_size(first, dims=2),
            mean=tuple(mean),
            std=tuple(std),
            augmentation=augmentation or Augmentation(),
        )


def _labelled(samples: Dataset, collate: Collate | None) -> Dataset:
    """Check the first sample, and make sure that the targets need not be read again."""
    samples = as_samples(samples)
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
