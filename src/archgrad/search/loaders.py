"""The two halves of the training data: one that the weights learn from, one that the alphas learn from."""

from __future__ import annotations

from contextlib import ExitStack

import torch
from torch import nn

from archgrad.batches import check_smallest_part
from archgrad.data import Data, InfiniteLoader, stratified_halves
from archgrad.distributed import rank, world_size
from archgrad.errors import DataError
from archgrad.search.search_options import SearchOptions

__all__ = ["open_streams"]


def open_streams(
    data: Data, network: nn.Module, options: SearchOptions, *, device: torch.device, workers: int, channels_last: bool
) -> tuple[InfiniteLoader, InfiniteLoader]:
    """Return endless batches for the weights and for the alphas.

    The split is shuffled and stratified; both halves are augmented, as the authors do.

    Args:
        data: Its training samples are split.
        network: Looked at for BatchNorm, which cannot train on one sample.
        options: Batch size, fraction, seed, cutout and precision count.
        device: Where the batches are used.
        workers: Processes a stream that read data which is not in memory.
        channels_last: Lay images out in channels_last memory format.

    Raises:
        DataError: A half is smaller than a batch, or BatchNorm would see a single sample.
    """
    dtype = torch.float64 if options.precision == "64" else torch.float32
    transform = data.training_transform(
        cutout=options.cutout or None, dtype=dtype, channels_last=channels_last and data.channels > 0
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
                    workers=workers,
                )
            except DataError as error:
                raise DataError(f"The half of '{data.name}' for the {name} has {len(half)} samples. {error}") from error
            streams.append(opened.enter_context(stream))
            check_smallest_part(network, stream.smallest_part // options.accumulation, of=f"for the {name}")
        opened.pop_all()  # the caller closes them
    return streams[0], streams[1]
