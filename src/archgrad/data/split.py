"""The split of the training data into two halves."""

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
    if not 0 < fraction < 1:
        raise OptionError(f"The fraction of a split must be between 0 and 1, but got {fraction}. Give for example 0.5.")
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


def _quotas(sizes: Tensor, fraction: float, total: int) -> Tensor:
    """Share `total` over classes in proportion to `sizes`, by the largest remainder; each is within one of exact."""
    exact = sizes.double() * fraction
    quotas = exact.floor().long().minimum(sizes - 1)  # below the size, as fraction < 1, whatever the rounding
    by_remainder = (quotas - exact).argsort(stable=True)
    quotas[by_remainder[: total - int(quotas.sum())]] += 1
    return quotas
