"""The two halves of the training data: one that the weights learn from, one that the alphas learn from."""

from __future__ import annotations

from contextlib import ExitStack

import torch

from archgrad.batches import check_smallest_part
from archgrad.data import Data, InfiniteLoader
from archgrad.distributed import rank, world_size
from archgrad.errors import DataError, OptionError
from archgrad.search.search_options import SearchOptions, SearchRecipe
from archgrad.supernet import Supernet

__all__ = ["Halves", "open_streams"]


class Halves(ExitStack):
    """Opens the streams of one split after the other; as a context, it ends with the last of them.

    Args:
        data: Its training samples are split.
        options: See `open_streams`.
        device: Where the batches are used.
    """

    def __init__(self, data: Data, options: SearchOptions, device: torch.device) -> None:
        super().__init__()
        self._data, self._options, self._device = data, options, device

    def open(self, supernet: Supernet, seed: int) -> tuple[InfiniteLoader, InfiniteLoader]:
        """Return the streams of the split of a seed, as `open_streams` does; those from before are closed."""
        self.close()
        train, valid = open_streams(self._data, supernet, self._options, seed=seed, device=self._device)
        self.callback(train.close)
        self.callback(valid.close)
        return train, valid


def open_streams(
    data: Data, supernet: Supernet, options: SearchOptions, *, seed: int, device: torch.device
) -> tuple[InfiniteLoader, InfiniteLoader]:
    """Return endless batches for the weights and for the alphas.

    The split is that of `Data.halves`; both halves are augmented, as the authors do.

    Args:
        data: Its training samples are split.
        supernet: Looked at for BatchNorm, which cannot train on one sample, and for the images' memory format; it is
            told of that.
        options: Batch size, fraction, cutout, precision and workers count.
        seed: Of the split, the order and augmentation.
        device: Where the batches are used.

    Raises:
        DataError: A half is smaller than a batch, or BatchNorm would see a single sample.
        OptionError: A fraction is given of data with validation samples of its own.
    """
    dtype = torch.float64 if options.precision == "64" else torch.float32
    supernet.fed_channels_last = supernet.channels_last and data.channels > 0
    transform = data.training_transform(
        cutout=options.cutout or None, dtype=dtype, channels_last=supernet.fed_channels_last
    )
    if data.valid is not None and options.weights_fraction != SearchRecipe.weights_fraction:
        raise OptionError(
            f"weights_fraction={options.weights_fraction} is the share of the weights where the training samples are "
            f"split, but {data.name!r} has validation samples of its own for the alphas. Leave it out."
        )
    halves = data.halves(fraction=options.weights_fraction, seed=seed)
    with ExitStack() as opened:
        streams = []
        for half, name, of_half in zip(halves, ("weights", "alphas"), (2 * seed, 2 * seed + 1), strict=True):
            try:
                stream = InfiniteLoader(
                    half.samples,
                    batch_size=options.batch_size,
                    seed=of_half,
                    indices=half.indices,
                    sampling_weights=options.sampling_weights(data, half),
                    transform=transform,
                    device=device,
                    rank=rank(),
                    world_size=world_size(),
                    workers=options.workers,
                    weighted=True,
                )
            except DataError as error:
                raise DataError(f"The half of '{data.name}' for the {name} is too small. {error}") from error
            streams.append(opened.enter_context(stream))
            check_smallest_part(supernet, stream.smallest_part // options.accumulation, of=f"for the {name}")
        opened.pop_all()  # the caller closes them
    return streams[0], streams[1]
