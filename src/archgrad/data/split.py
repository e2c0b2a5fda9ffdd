"""The split of the training data into two halves: at random, by groups, or by time."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from archgrad.data.seeds import generator_of
from archgrad.errors import DataError, OptionError


def stratified_halves(targets: Tensor, *, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Split sample indices into two shuffled parts with the same share of each class.

    scikit-learn's splitter refuses classes of one sample and parts smaller than the number of classes; rare classes are
    ordinary in tables, so the quota is worked out here.

    Args:
        targets: (N,) integer classes; float targets, or targets of another shape, are only shuffled.
        fraction: Share of the first part, in (0, 1). Each part gets at least one sample.
        seed: At least 0; the same seed gives the same split.

    Returns:
        Two int64 tensors of disjoint indices that together are 0..N-1. Of a class with n samples the first part has
        floor(fraction * n) or one more.

    Raises:
        OptionError: The fraction is not in (0, 1).
        DataError: There are fewer than two samples.
    """
    _check_fraction(fraction)
    count = len(targets)
    if count < 2:
        raise DataError(f"A split needs at least 2 samples, but the data has {count}. Give more data.")
    first_count = min(max(round(fraction * count), 1), count - 1)
    order = torch.randperm(count, generator=generator_of(seed, "split"))
    if targets.is_floating_point() or targets.ndim != 1:
        return order[:first_count], order[first_count:]

    # `grouped` lists the samples class by class, shuffled within each; the first part takes the head of each group.
    _, classes, sizes = targets.cpu()[order].unique(return_inverse=True, return_counts=True)
    by_class = classes.argsort(stable=True)
    grouped = order[by_class]
    starts = sizes.cumsum(0) - sizes
    ranks = torch.arange(count) - starts[classes[by_class]]
    in_first = ranks < _quotas(sizes, fraction, first_count)[classes[by_class]]
    # Sorting by place in `order` shuffles the classes among each other again.
    place = order.argsort()
    first, second = grouped[in_first], grouped[~in_first]
    return first[place[first].argsort()], second[place[second].argsort()]


def grouped_halves(targets: Tensor, groups: Tensor, *, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Split sample indices into two shuffled parts, no group in both, with about the same share of each class.

    The largest groups are placed first, each where it leaves the shares of the classes nearest to what is meant;
    groups of one size are placed in an order that follows from the seed.

    Args:
        targets: As for `stratified_halves`.
        groups: (N,) int64, of each sample.
        fraction: Share of the samples that the first part has as nearly as groups allow, in (0, 1). Each part gets at
            least one group.
        seed: At least 0; the same seed gives the same split.

    Returns:
        As `stratified_halves`.

    Raises:
        OptionError: The fraction is not in (0, 1).
        DataError: There are fewer than two groups.
    """
    _check_fraction(fraction)
    generator = generator_of(seed, "groups")
    side = _parts_of_groups(targets, groups, [fraction, 1 - fraction], generator)
    shuffled = torch.randperm(len(groups), generator=generator)
    in_second = side[shuffled].bool()
    return shuffled[~in_second], shuffled[in_second]


def fold_numbers(targets: Tensor, folds: int, *, groups: Tensor | None = None, seed: int = 0) -> Tensor:
    """Deal samples into parts of about one size, each with about the same share of each class, for cross-validation.

    Args:
        targets: As for `stratified_halves`.
        folds: How many parts, from 2 to the number of samples, or of groups.
        groups: (N,) int64, of each sample: no group is in two parts. None for none.
        seed: At least 0; the same seed gives the same parts.

    Returns:
        (N,) int64, the part of each sample, in 0..folds-1. Of a class with n samples a part has floor(n / folds) or one
        more, and so it is with all samples; with groups as nearly as they allow.

    Raises:
        DataError: There are fewer samples, or groups, than parts.
    """
    if len(targets) < folds:
        raise DataError(f"{folds} folds need as many samples, but the data has {len(targets)}. Give fewer folds.")
    generator = generator_of(seed, "folds")
    if groups is not None:
        return _parts_of_groups(targets, groups, [1 / folds] * folds, generator)
    order = torch.randperm(len(targets), generator=generator)
    if targets.ndim == 1 and not targets.is_floating_point():
        order = order[targets.cpu()[order].argsort(stable=True)]
    parts = torch.empty(len(targets), dtype=torch.int64)
    parts[order] = torch.arange(len(targets)) % folds
    return parts


def _parts_of_groups(targets: Tensor, groups: Tensor, shares: Sequence[float], generator: torch.Generator) -> Tensor:
    """Return (N,) int64, which part the group of each sample is in; no part is without a group."""
    _, group, sizes = groups.unique(return_inverse=True, return_counts=True)
    if len(sizes) < len(shares):
        raise DataError(
            f"A split by groups needs at least {len(shares)} of them, but all {len(groups)} samples are of "
            f"{'one' if len(sizes) == 1 else len(sizes)}."
        )
    stratified = not targets.is_floating_point() and targets.ndim == 1
    of_class = targets.unique(return_inverse=True)[1] if stratified else torch.zeros_like(group)
    counts = torch.zeros(len(sizes), int(of_class.max()) + 1, dtype=torch.float64)
    counts.index_put_((group, of_class), torch.ones(len(group), dtype=torch.float64), accumulate=True)
    total = counts.sum(0)
    wanted = torch.tensor(shares, dtype=torch.float64)[:, None] * total
    held = torch.zeros_like(wanted)
    order = torch.randperm(len(sizes), generator=generator)
    order = order[sizes[order].argsort(descending=True, stable=True)]
    part = torch.zeros(len(sizes), dtype=torch.int64)
    for number in order.tolist():
        after, before = ((((held + more - wanted) / total) ** 2).sum(1) for more in (counts[number], 0.0))
        part[number] = (after - before).argmin()
        held[part[number]] += counts[number]
    for empty in sorted(set(range(len(shares))) - set(part.tolist())):  # a group is larger than a part is to be
        several = part.bincount(minlength=len(shares)) > 1
        part[next(number for number in reversed(order.tolist()) if several[part[number]])] = empty
    return part[group]


def ordered_halves(times: Tensor, *, fraction: float) -> tuple[Tensor, Tensor]:
    """Split sample indices into the earlier ones and the later ones, each in order.

    Samples of one time stay together, so that nothing of the second part is known in the first.

    Args:
        times: (N,), of each sample.
        fraction: Share of the first part, in (0, 1), as nearly as times allow.

    Raises:
        OptionError: The fraction is not in (0, 1).
        DataError: All samples are of one time.
    """
    _check_fraction(fraction)
    order = times.argsort(stable=True)
    ordered = times[order]
    cuts = (ordered[1:] != ordered[:-1]).nonzero().flatten() + 1
    if not len(cuts):
        raise DataError(f"A split by time needs at least 2 times, but all {len(times)} samples are of one.")
    cut = int(cuts[(cuts - fraction * len(times)).abs().argmin()])
    return order[:cut], order[cut:]


def numbered_groups(groups: Sequence[Any] | np.ndarray | Tensor, count: int) -> Tensor:
    """Return (N,) int64 of the names or numbers of groups.

    Raises:
        DataError: There are not as many as samples.
    """
    values = np.asarray(groups)
    _check_one_each("groups", values, count)
    return torch.from_numpy(np.unique(values, return_inverse=True)[1]).long()


def numbered_times(times: Sequence[Any] | np.ndarray | Tensor, count: int) -> Tensor:
    """Return (N,) int64 of numbers or dates, in their order.

    Raises:
        DataError: There are not as many as samples, or they have no order.
    """
    values = np.asarray(times)
    _check_one_each("times", values, count)
    if values.dtype.kind not in "iufbM" or (values != values).any():
        raise DataError("Times must be numbers or dates, each of them known, but they are not. Give for example hours.")
    return torch.from_numpy(np.unique(values, return_inverse=True)[1]).long()


def _check_one_each(what: str, values: np.ndarray, count: int) -> None:
    if values.shape != (count,):
        raise DataError(
            f"{what} must have one entry for each of the {count} training samples, but have the shape {values.shape}."
        )


def _check_fraction(fraction: float) -> None:
    if not 0 < fraction < 1:
        raise OptionError(f"The fraction of a split must be between 0 and 1, but got {fraction}. Give for example 0.5.")


def _quotas(sizes: Tensor, fraction: float, total: int) -> Tensor:
    """Share `total` over classes in proportion to `sizes`, by the largest remainder; each is within one of exact."""
    exact = sizes.double() * fraction
    quotas = exact.floor().long().minimum(sizes - 1)  # below the size, as fraction < 1, whatever the rounding
    by_remainder = (quotas - exact).argsort(stable=True)
    quotas[by_remainder[: total - int(quotas.sum())]] += 1
    return quotas
