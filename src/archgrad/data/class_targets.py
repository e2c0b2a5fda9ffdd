"""Targets that are class numbers: their names, and what is refused."""

import unicodedata
import warnings
from collections.abc import Mapping, Sequence

from torch import Tensor
from torch.utils.data import Dataset

from archgrad.data.samples import targets_of
from archgrad.errors import DataError

__all__ = ["check_class_targets", "class_names", "tell_similar_names"]


def class_names(train: Dataset, others: Mapping[str, Dataset | None], given: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of the classes; none where targets are not class numbers.

    Args:
        train: Training samples.
        others: Other samples, by what messages call them.
        given: Names; by default what the data set says, or the numbers.

    Raises:
        DataError: There are names but no classes, or `check_class_targets` refuses the targets.
    """
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


def tell_similar_names(classes: Sequence[str], where: object) -> None:
    """Tell of classes whose names differ in nothing but case, blanks, underscores and ways to write an accent."""
    alike: dict[str, list[str]] = {}
    for name in classes:
        plain = unicodedata.normalize("NFKC", name).casefold()
        alike.setdefault("".join(plain.replace("_", " ").replace("-", " ").split()), []).append(name)
    if found := [names for names in alike.values() if len(names) > 1]:
        warnings.warn(
            f"{where} has classes of nearly the same name, {', '.join(map(str, found))}, which are learnt as different "
            f"ones. Write their names alike if they are the same.",
            stacklevel=3,
        )
