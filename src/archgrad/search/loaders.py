"""The two halves of the training data: one that the weights learn from, one that the alphas learn from."""

from __future__ import annotations

from contextlib import ExitStack

import torch

from archgrad.batches import check_smallest_part
from archgrad.data import Data, InfiniteLoader, stratified_halves
from archgrad.distributed import rank, world_size
from archgrad.errors import DataError
from archgrad.search.search_options import SearchOptions
from archgrad.supernet import Supernet

__all__ = ["open_streams"]


def open_streams(
    data: Data, supernet: Supernet, options: SearchOptions, *, device: torch.device
) -> tuple[InfiniteLoader, InfiniteLoader]:
    """Return endless batches for the weights and for the alphas.

    The split is shuffled and stratified; both halves are augmented, as the authors do.

    Args:
        data: Its training samples are split.
        supernet: Looked at for BatchNorm, which cannot train on one sample, and for the images' memory format.
        options: Batch size, fraction, seed, cutout, precision and workers count.
        device: Where the batches are used.

    Raises:
        DataError: A half is smaller than a batch, or BatchNorm would see a single sample.
    """
    dtype = torch.float64 if options.precision == "64" else torch.float32
    transform = data.training_transform(
        cutout=options.cutout or None, dtype=dtype, channels_last=supernet.channels_last and data.channels > 0
    )
    halves = stratified_halves(data.train_targets, fraction=options.weights_fraction, seed=options.seed)
    with ExitStack() as opened:
        streams = []
        for half, name, seed in zip(
            halves, ("weights", "alphas"), (2 * options.seed, 2 * options.seed + 1), strict=True
        ):
            try:
                stream = InfiniteLoader(
                    data.train,
                    batch_size=options.batch_size,
                    seed=seed,
                    indices=half,
                    transform=transform,
                    device=device,
                    rank=rank(),
                    world_size=world_size(),
                    workers=options.workers,
                )
            except DataError as error:
                raise DataError(f"The half of '{data.name}' for the {name} has {len(half)} samples. {error}") from error
            streams.append(opened.enter_context(stream))
            check_smallest_part(supernet, stream.smallest_part // options.accumulation, of=f"for the {name}")
        opened.pop_all()  # the caller closes them
    return streams[0], streams[1]
