"""Samples as data sets: tensors in memory, and the targets of any data set."""

from collections.abc import Callable
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset, TensorDataset

from archgrad.data.seeds import kept_randomness
from archgrad.errors import DataError
from archgrad.machine import machine_memory
from archgrad.nested import joined, map_tensors, tensors_in

_BYTES_PER_SAMPLE = 200  # of what holds its tensors
_FEW = 6  # shapes that a message names
_RESIDENT_SHARE = 0.25
"""Largest share of a device's free memory that samples may take to be kept there."""


class TensorSamples(Dataset):
    """Samples in memory: a whole batch is one gather of each tensor.

    Args:
        inputs: (N, ...) tensor, uint8 images (N, C, H, W) or features of any type; or a tuple, list or dict of such.
        targets: (N, ...) tensor, (N,) integer classes or floating-point values.
        sample_weights: (N,) at least 0 and not all 0, how much each sample counts in the loss in relation to the
            others; by default all alike.

    Raises:
        DataError: There is no sample, the lengths differ, or a floating-point value is not finite.
    """

    def __init__(self, inputs: Any, targets: Tensor, sample_weights: Any = None) -> None:
        parts = list(tensors_in(inputs))
        if not parts or not all(part.ndim and targets.ndim and len(part) == len(targets) for part in parts):
            shapes = ", ".join(str(tuple(part.shape)) for part in parts[:_FEW]) or "none"
            more = f" ({len(parts)} tensors)" if len(parts) > _FEW else ""
            listed = isinstance(inputs, tuple | list) and targets.ndim > 0 and len(inputs) == len(targets)
            remedy = (
                "A list of samples is joined to one tensor first, by torch.stack, sequences padded to one length"
                if listed
                else "Give as many targets as inputs"
            )
            raise DataError(
                f"Inputs and targets need one row a sample each, but their shapes are {shapes}{more} and "
                f"{tuple(targets.shape)}. {remedy}."
            )
        if not len(targets):
            raise DataError("The data has no samples. Give at least one batch of them.")
        self.inputs = map_tensors(inputs, lambda part: check_finite(part, "inputs"))
        self.targets = check_finite(targets if targets.is_floating_point() else targets.long(), "targets")
        self.sample_weights = checked_sample_weights(sample_weights, len(targets))
        self._resident: dict[torch.device, tuple[Any, Tensor] | None] = {}

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, Tensor]:
        return map_tensors(self.inputs, itemgetter(index)), self.targets[index]

    def tensors_on(self, device: torch.device) -> tuple[Any, Tensor] | None:
        """Copy the samples to a device once, for all streams that read them.

        Args:
            device: Where the batches are used.

        Returns:
            Inputs and targets on the device; None where they would take more than a quarter of its free memory.
        """
        tensors = [*tensors_in(self.inputs), self.targets]
        if all(tensor.device == device for tensor in tensors):
            return self.inputs, self.targets
        if device not in self._resident:
            size = sum(tensor.nbytes for tensor in tensors)
            fits = device.type != "cuda" or size <= _RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]
            there = map_tensors((self.inputs, self.targets), lambda tensor: tensor.to(device)) if fits else None
            self._resident[device] = there
        return self._resident[device]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_resident": {}}  # device copies stay with their process


Collate = Callable[[list[Any]], Any]
"""Makes a batch (inputs, targets) of a list of (input, target) pairs."""


class ListedSamples(Dataset):
    """What an iterable data set gives, read once and kept, so that it can be split, shuffled and gone on with.

    Args:
        samples: Gives pairs, finitely many.

    Raises:
        DataError: It takes more than a quarter of the memory, as an endless one would.
    """

    def __init__(self, samples: IterableDataset) -> None:
        self._pairs: list[Any] = []
        most, size = (machine_memory() or 2**33) // 4, 0
        for pair in samples:
            self._pairs.append(pair)
            size += _BYTES_PER_SAMPLE + sum(tensor.nbytes for tensor in tensors_in(pair))
            if size > most:
                raise DataError(
                    f"{type(samples).__name__} is read into memory once, so that its samples can be split and "
                    f"shuffled, but takes more than a quarter of it after {len(self._pairs):,} samples. Give a data "
                    f"set with a length and access by index, or fewer samples."
                )

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Any:
        return self._pairs[index]


class LabelledSamples(Dataset):
    """A data set with its targets known, so that nobody has to read all of it again.

    Args:
        samples: Any map-style data set of (input, target) pairs.
        targets: (N, ...) tensor, the targets in order.
        collate: Function of a list of pairs that returns (inputs, targets) of their batch; None joins them.
        sample_weights: As of `TensorSamples`.
    """

    def __init__(
        self, samples: Dataset, targets: Tensor, collate: Collate | None = None, sample_weights: Any = None
    ) -> None:
        self.samples = samples
        self.targets = targets
        self.collate = collate
        self.sample_weights = checked_sample_weights(sample_weights, len(targets))

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Any:
        return self.samples[index]


def collate_of(samples: Dataset) -> Collate | None:
    """Return the function that makes batches of a data set's samples, also behind `Subset` and `ConcatDataset`."""
    if isinstance(samples, Subset):
        return collate_of(samples.dataset)
    if isinstance(samples, ConcatDataset):
        return collate_of(samples.datasets[0])
    if isinstance(samples, LabelledSamples):
        return samples.collate or collate_of(samples.samples)
    return None


def sample_weights_of(samples: Dataset) -> Tensor | None:
    """Return the weights of a data set's samples in the loss, (N,); None where they have none.

    `Subset` and `ConcatDataset` are looked through; joined with others, samples without weights have 1.
    """
    if isinstance(samples, Subset):
        whole = sample_weights_of(samples.dataset)
        return None if whole is None else whole[torch.as_tensor(samples.indices, dtype=torch.int64)]
    if isinstance(samples, ConcatDataset):
        parts = [sample_weights_of(part) for part in samples.datasets]
        if all(weights is None for weights in parts):
            return None
        sizes = [size_of(part) for part in samples.datasets]
        return torch.cat([torch.ones(n) if w is None else w for w, n in zip(parts, sizes, strict=True)])
    if isinstance(samples, LabelledSamples) and samples.sample_weights is None:
        return sample_weights_of(samples.samples)
    return samples.sample_weights if isinstance(samples, TensorSamples | LabelledSamples) else None


def checked_sample_weights(given: Any, count: int) -> Tensor | None:
    """Return weights of samples as a tensor, (N,) float32, or None for none.

    Args:
        given: A number of each sample, or None.
        count: How many samples there are.

    Raises:
        DataError: There are not as many, one is negative or not finite, or all are 0.
    """
    if given is None:
        return None
    weights = torch.as_tensor(given).to("cpu", torch.float32)
    if weights.shape != (count,) or not bool(((weights >= 0) & weights.isfinite()).all() & (weights > 0).any()):
        least = f", the least {float(weights.min()):g}" if weights.numel() else ""
        raise DataError(
            f"The weights of samples must be {count} finite numbers of at least 0, one a sample and not all 0, but "
            f"they have the shape {tuple(weights.shape)}{least}. Leave out samples that are not to count."
        )
    return weights


def check_finite(values: Tensor, what: str, first: int = 0) -> Tensor:
    """Return the values, or say where one is not finite.

    Args:
        values: (N, ...) tensor.
        what: What they are, for the message.
        first: Number of the first sample, for the message.

    Raises:
        DataError: A value is infinite or not a number.
    """
    if (values.is_floating_point() or values.is_complex()) and not bool(torch.isfinite(values).all()):
        rows = (~torch.isfinite(values)).reshape(len(values), -1).any(1)
        raise DataError(
            f"All {what} must be finite, but sample {first + int(rows.nonzero()[0])} has a value that is not a number "
            f"or is infinite. Repair or leave out such samples."
        )
    return values


def as_samples(samples: Dataset) -> Dataset:
    """Bring a data set to its fastest form: tensors in memory, also behind `Subset`, become `TensorSamples`.

    An iterable data set is read once.
    """
    if isinstance(samples, IterableDataset):
        with kept_randomness():
            return ListedSamples(samples)
    if isinstance(samples, TensorDataset) and len(samples.tensors) == 2:
        return TensorSamples(*samples.tensors)
    if isinstance(samples, Subset):
        whole = as_samples(samples.dataset)
        if isinstance(whole, TensorSamples):
            indices = torch.as_tensor(samples.indices, dtype=torch.int64)
            inputs = map_tensors(whole.inputs, itemgetter(indices))
            return TensorSamples(inputs, whole.targets[indices], sample_weights_of(Subset(whole, samples.indices)))
    return samples


def joined_samples(first: Dataset, second: Dataset) -> Dataset:
    """Return the samples of one data set and then of another as one, in memory where both are."""
    both: Dataset = ConcatDataset([first, second])
    weights = sample_weights_of(both)
    if isinstance(first, TensorSamples) and isinstance(second, TensorSamples):
        inputs, targets = joined([(part.inputs, part.targets) for part in (first, second)], torch.cat)
        return TensorSamples(inputs, targets, weights)
    return LabelledSamples(both, torch.cat([targets_of(first), targets_of(second)]), sample_weights=weights)


def targets_of(samples: Dataset) -> Tensor:
    """Find the target of every sample.

    The attributes `targets`, `labels` and `tensors` that many data sets have are used where they agree with what some
    samples give (with the data set's `target_transform` applied), `Subset` and `ConcatDataset` are looked through; else
    every sample is read once.

    Args:
        samples: A map-style data set of (input, target) pairs.

    Returns:
        (N, ...) tensor, int64 or floating point.

    Raises:
        DataError: A target is not a number or a tensor.
    """
    if isinstance(samples, Subset):
        return targets_of(samples.dataset)[torch.as_tensor(samples.indices, dtype=torch.int64)]
    if isinstance(samples, ConcatDataset):
        return torch.cat([targets_of(part) for part in samples.datasets])
    if isinstance(samples, TensorDataset):
        return target_tensor(samples.tensors[-1])
    if isinstance(samples, TensorSamples | LabelledSamples):
        return target_tensor(samples.targets)
    count = size_of(samples)
    for name in ("targets", "labels"):
        known: Any = getattr(samples, name, None)
        if isinstance(known, list | tuple | np.ndarray | Tensor) and len(known) == count:
            change = getattr(samples, "target_transform", None)
            with kept_randomness():
                if _are_targets(known, samples, change):
                    return target_tensor(known if change is None else [change(target) for target in known])
    with kept_randomness():
        return target_tensor([pair_of(samples, index)[1] for index in range(count)])


def _are_targets(known: Any, samples: Dataset, change: Any) -> bool:
    """Whether an attribute of a data set agrees with what its first, middle and last samples give."""
    for index in {0, len(known) // 2, len(known) - 1}:
        try:
            given = pair_of(samples, index)[1]
        except DataError:  # told where the sample is needed
            continue
        try:
            said = known[index] if change is None else change(known[index])
            said, given = torch.as_tensor(said), torch.as_tensor(given)
        except Exception:  # paths, names, records: whatever a target_transform makes of them
            return False
        if said.shape != given.shape or said.is_floating_point() != given.is_floating_point():
            return False
        if not torch.allclose(said.double(), given.double()):
            return False
    return True


def size_of(samples: Dataset) -> int:
    """Count the samples of a map-style data set.

    Raises:
        DataError: It has no length, or no samples.
    """
    if not hasattr(samples, "__len__") or not hasattr(samples, "__getitem__"):
        raise DataError(
            f"A data set needs a length and access by index, but {type(samples).__name__} lacks one of them. "
            f"Give a map-style data set."
        )
    if not len(samples):
        raise DataError(f"The data set {type(samples).__name__} has no samples. Give at least one batch of them.")
    return len(samples)


def pair_of(samples: Dataset, index: int) -> tuple[Any, Any]:
    """Read one (input, target) pair.

    Raises:
        DataError: The sample is not such a pair, or its file cannot be read.
    """
    try:
        pair = samples[index]
    except OSError as error:  # a file removed or corrupt; PIL's unreadable images are among these
        raise DataError(
            f"Sample {index} cannot be read: {error}. Restore its file, or leave the sample out."
        ) from error
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        parts = f" of {len(pair)}" if isinstance(pair, tuple | list) else ""
        remedy = (
            " If the third is a weight in the loss, give Data.from_datasets weighted=True." if parts == " of 3" else ""
        )
        raise DataError(
            f"A sample must be a pair (input, target), but sample {index} of {type(samples).__name__} is a "
            f"{type(pair).__name__}{parts}. Wrap the data set so that it gives such pairs.{remedy}"
        )
    return pair[0], pair[1]


def target_tensor(targets: Any) -> Tensor:
    """Return targets, or a list of them, as one tensor, int64 or floating point."""
    try:
        if isinstance(targets, Tensor):
            tensor = targets
        elif isinstance(targets, list | tuple) and targets and isinstance(targets[0], Tensor):
            tensor = torch.stack(list(targets))
        else:
            tensor = torch.from_numpy(np.array(targets))
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"Targets must be numbers or tensors of one shape, but they cannot be joined: {error}. "
            f"Number the classes 0, 1, 2, ..."
        ) from error
    return tensor if tensor.is_floating_point() else tensor.long()
