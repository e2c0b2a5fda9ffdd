"""Many image files to pixels, on all cores; those that cannot be read are told together."""

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from archgrad.data.augment import channel_histogram
from archgrad.data.decode import Header, decode, read_header
from archgrad.data.listing import StoredImage
from archgrad.errors import DataError

_CHUNK_BYTES = 2**21  # small, as a container's shared memory is
_WORTH_WORKERS = 2000  # files; starting processes takes as long as reading a few hundred
_NAMED = 20  # files that a message names


class UnreadableImagesError(DataError):
    """Some images cannot be read.

    Args:
        reasons: Position of each of them: why, with its name.
        count: Of all images.
        headers: Of the others.
    """

    def __init__(self, reasons: dict[int, str], count: int, headers: Sequence[Header] = ()) -> None:
        self.reasons, self.count, self.headers = reasons, count, list(headers)
        self.indices = sorted(reasons)
        told = [reasons[index] for index in self.indices]
        if len(told) == 1:
            super().__init__(told[0])
            return
        names = "\n".join(f"  {reason}" for reason in told[:_NAMED])
        more = f"\n  ... and {len(told) - _NAMED} more" if len(told) > _NAMED else ""
        super().__init__(
            f"{len(told)} of {count} images cannot be used. Restore them, or leave them out with skip_unreadable (on "
            f"the command line --skip-unreadable):\n{names}{more}"
        )


class _Done(NamedTuple):
    """What came of a chunk."""

    result: Any
    """Of the images that could be read; None where there is none."""
    headers: list[Header]
    """Theirs."""
    reasons: dict[int, str]
    """Position in the chunk of each image that could not be read: why."""


def read_headers(images: Sequence[StoredImage]) -> list[Header]:
    """Read the headers of many images, on all cores.

    Returns:
        As `read_header`, in order.

    Raises:
        UnreadableImagesError: Of some they cannot be read.
    """
    return _on_all_cores(_read_headers, images, 4096)[1]


def decode_all(images: Sequence[StoredImage], **form: Any) -> tuple[Tensor, list[Header]]:
    """Decode many images, on all cores.

    Args:
        images: (N) where they are.
        form: What they are brought to, as for `decode`, with the number of bits.

    Returns:
        (N, channels, height, width) uint8 or uint16, and the N headers.

    Raises:
        UnreadableImagesError: Some cannot be decoded.
    """
    shape = shape_of(form)
    decoded = torch.empty(len(images), *shape, dtype=torch.uint16 if form.get("bits") == 16 else torch.uint8)
    place = 0

    def keep(pixels: Tensor) -> None:
        nonlocal place
        decoded[place : place + len(pixels)] = pixels
        place += len(pixels)

    _, headers = _on_all_cores(partial(_decode_chunk, form=form), images, decoded[:1].nbytes, keep)
    return decoded, headers


def pixel_histogram(images: Sequence[StoredImage], **form: Any) -> Tensor:
    """Count how often each pixel value occurs in many images, on all cores, without keeping them.

    Args:
        images: (N) where they are.
        form: What they are brought to, as for `decode`, with the number of bits.

    Returns:
        (channels, 256) int64, or (channels, 65536) of 16 bits.

    Raises:
        UnreadableImagesError: Some cannot be decoded.
    """
    channels, height, width = shape_of(form)
    size = channels * height * width * form.get("bits", 8) // 8
    counts, _ = _on_all_cores(partial(_chunk_histogram, form=form), images, size)
    return torch.stack(counts).sum(0)


def shape_of(form: dict[str, Any]) -> tuple[int, int, int]:
    """Return (channels, height, width) of what images are brought to."""
    size = form["image_size"]
    height, width = (size, size) if isinstance(size, int) else size
    return form["channels"], height, width


def _read_headers(images: Sequence[StoredImage]) -> _Done:
    return _each(read_header, images, lambda headers: (None, headers))


def _decode_chunk(images: Sequence[StoredImage], form: dict[str, Any]) -> _Done:
    def join(decoded: list[tuple[np.ndarray, Header]]) -> tuple[Tensor, list[Header]]:
        return torch.from_numpy(np.stack([pixels for pixels, _ in decoded])), [header for _, header in decoded]

    return _each(partial(decode, **form), images, join)


def _chunk_histogram(images: Sequence[StoredImage], form: dict[str, Any]) -> _Done:
    done = _decode_chunk(images, form)
    return done if done.result is None else done._replace(result=channel_histogram(done.result))


def _each(
    read: Callable[[StoredImage], Any], images: Sequence[StoredImage], join: Callable[[list[Any]], tuple[Any, Any]]
) -> _Done:
    found, reasons = [], {}
    for place, stored in enumerate(images):
        try:
            found.append(read(stored))
        except DataError as error:
            reasons[place] = str(error)
    result, headers = join(found) if found else (None, [])
    return _Done(result, headers, reasons)


def _on_all_cores(
    work: Callable[[Sequence[StoredImage]], _Done],
    images: Sequence[StoredImage],
    bytes_each: int,
    take: Callable[[Any], object] | None = None,
) -> tuple[list[Any], list[Header]]:
    """Do a work on each chunk of the images; return the results in order, unless `take` takes them, and the headers."""
    size = max(1, _CHUNK_BYTES // bytes_each)
    chunks = [images[start : start + size] for start in range(0, len(images), size)]
    results: list[Any] = []
    headers: list[Header] = []
    reasons: dict[int, str] = {}
    take = take or results.append
    for number, done in enumerate(_done(work, chunks, len(images))):
        headers += done.headers
        reasons |= {number * size + place: reason for place, reason in done.reasons.items()}
        if done.result is not None and not reasons:
            take(done.result)
    if reasons:
        raise UnreadableImagesError(reasons, len(images), headers)
    return results, headers


def _done(
    work: Callable[[Sequence[StoredImage]], _Done], chunks: Sequence[Sequence[StoredImage]], count: int
) -> Iterator[_Done]:
    # Threads would wait for each other (decoding small images is mostly Python). Processes start safely by forking only
    # on Linux; starting them otherwise would run the caller's script again.
    workers = 0
    if sys.platform == "linux" and count >= _WORTH_WORKERS and not multiprocessing.current_process().daemon:
        workers = min(len(os.sched_getaffinity(0)), 16)
    yield from DataLoader(
        _Chunks(work, chunks),
        batch_size=None,
        num_workers=workers,
        collate_fn=_unchanged,
        multiprocessing_context="fork" if workers else None,
        generator=torch.Generator().manual_seed(0),  # else the global generator would be drawn from
    )


class _Chunks(Dataset):
    def __init__(self, work: Callable[[Sequence[StoredImage]], Any], chunks: Sequence[Sequence[StoredImage]]) -> None:
        self._work, self._chunks = work, chunks

    def __len__(self) -> int:
        return len(self._chunks)

    def __getitem__(self, index: int) -> _Done:
        return self._work(self._chunks[index])


def _unchanged(done: Any) -> Any:
    return done
