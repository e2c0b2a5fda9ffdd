"""What processes tell each other: means, sums, copies and comparisons."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from archgrad.distributed.heartbeat import reason_of_end
from archgrad.errors import ArchgradError, RunError

__all__ = [
    "ControlFlags",
    "agreed_control_flags",
    "alone",
    "answered",
    "average_over_ranks",
    "barrier",
    "broadcast_bytes",
    "broadcast_tensors",
    "check_same",
    "divide_over_ranks",
    "gather_bytes",
    "gather_rows",
    "largest_over_ranks",
    "raise_on_all_ranks",
    "rank",
    "reset_control_flags",
    "set_control_flags",
    "sum_over_ranks",
    "world_size",
]


_is_alone = False  # for all threads: backward passes have their own


@contextmanager
def alone() -> Iterator[None]:
    """Let this process do all inside as if it were the only one, with no message to the others."""
    global _is_alone
    _is_alone = True
    try:
        yield
    finally:
        _is_alone = False


def world_size() -> int:
    """Return the number of processes."""
    if _is_alone:
        return 1
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


@contextmanager
def answered() -> Iterator[None]:
    """Turn what the backends raise when a process is gone into a RunError that says so.

    Raises:
        RunError: As said.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = reason_of_end()
        what = str(error).partition("\n")[0].partition(". ")[0] or type(error).__name__  # advice follows
        raise RunError(
            f"Process {rank()} of {world_size()} gets no answer from the others: {reason or 'one has ended'} "
            f"({what}). Go on from the last checkpoint, with resume or torchrun --max-restarts."
        ) from error


# --- means and sums ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ControlFlags:
    """What a process wants all to do after the same step."""

    stop: bool = False
    """It was told to end."""
    save: bool = False
    """A checkpoint is due."""


_own_flags = ControlFlags()
_agreed_flags: Tensor | None = None


def set_control_flags(flags: ControlFlags) -> None:
    """Let these flags travel with every average from now on, at no message of their own."""
    global _own_flags
    _own_flags = flags


def reset_control_flags() -> None:
    """Forget all flags; a run begins with this, as it may not be the first in its processes."""
    global _own_flags, _agreed_flags
    _own_flags, _agreed_flags = ControlFlags(), None


def agreed_control_flags() -> ControlFlags:
    """Return what any process had set at the last average; the same on every process. Waits for the device."""
    if world_size() == 1 or _agreed_flags is None:
        return _own_flags
    stop, save = _agreed_flags.tolist()
    return ControlFlags(stop=stop > 0, save=save > 0)


def average_over_ranks(tensors: Sequence[Tensor], samples: int) -> list[Tensor]:
    """Return the mean of each tensor over the ranks, each rank weighted by its number of samples.

    One all-reduce of one flat buffer, whatever the number of tensors; sample counts and control flags travel in it.
    With losses that are means over a rank's samples this gives the gradient of the mean over all samples.

    Args:
        tensors: At least one, of one device, of the same shapes on every rank.
        samples: What this rank's values are the mean of, at least 0.

    Raises:
        RunError: Another process is gone.
    """
    if world_size() == 1:
        return list(tensors)
    return divide_over_ranks([tensor.detach() * samples for tensor in tensors], samples)


def divide_over_ranks(numerators: Sequence[Tensor], denominator: Tensor | float | None) -> list[Tensor]:
    """Return the sum of each tensor over the ranks, divided by the sum of the denominators.

    One all-reduce of one flat buffer, whatever the number of tensors; denominators and control flags travel in it.

    Args:
        numerators: At least one, of one device, of the same shapes on every rank.
        denominator: This rank's share of what is divided by, at least 0, a number or a 0-dimensional tensor; None on
            every rank divides by nothing.

    Raises:
        RunError: Another process is gone.
    """
    global _agreed_flags
    if world_size() == 1:
        if denominator is None:
            return list(numerators)
        if not isinstance(denominator, Tensor):
            return [numerator.detach() / denominator for numerator in numerators]
        return [numerator.detach() / denominator.to(numerator) for numerator in numerators]
    dtype = torch.promote_types(numerators[0].dtype, torch.float32)  # counts are exact in it
    device = numerators[0].device
    own = torch.as_tensor(0.0 if denominator is None else denominator, dtype=dtype, device=device).reshape(1)
    flags = torch.tensor([float(_own_flags.stop), float(_own_flags.save)], dtype=dtype, device=device)
    flat = torch.cat([*(t.detach().reshape(-1).to(dtype) for t in numerators), own, flags])
    with answered():
        dist.all_reduce(flat)
    _agreed_flags = flat[-2:]
    sums = flat[:-3] if denominator is None else flat[:-3] / flat[-3]
    parts = sums.split([t.numel() for t in numerators])
    return [_shaped(values, like) for values, like in zip(parts, numerators, strict=True)]


def _shaped(values: Tensor, like: Tensor) -> Tensor:
    """Return flat values in the shape, type and memory order of a tensor, which the optimizers are fast with."""
    values = values.view(like.shape).to(like.dtype)
    return values if like.is_contiguous() else torch.empty_like(like).copy_(values)


def sum_over_ranks(values: Sequence[float]) -> list[float]:
    """Return the sums over the processes; one message."""
    if world_size() == 1:
        return list(values)
    numbers = torch.tensor(values, dtype=torch.float64, device=_device())
    with answered():
        dist.all_reduce(numbers)
    return [float(number) for number in numbers.tolist()]


def largest_over_ranks(value: int) -> int:
    """Return the largest value of any process; one message."""
    if world_size() == 1:
        return value
    number = torch.tensor([value], dtype=torch.int64, device=_device())
    with answered():
        dist.all_reduce(number, dist.ReduceOp.MAX)
    return int(number)


# --- copies -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def broadcast_tensors(tensors: Iterable[Tensor]) -> None:
    """Give every process the values of process 0, in place; one message for each type and device among them."""
    if world_size() == 1:
        return
    groups: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    for group in groups.values():
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in group])
        with answered():
            dist.broadcast(flat, 0)
        for tensor, values in zip(group, flat.split([tensor.numel() for tensor in group]), strict=True):
            tensor.copy_(values.view(tensor.shape))


def broadcast_bytes(data: bytes | None) -> bytes:
    """Return the bytes of process 0 on every process; what the others give is not looked at."""
    if world_size() == 1:
        assert data is not None
        return data
    size = torch.tensor([len(data) if data is not None and rank() == 0 else 0], device=_device())
    with answered():
        dist.broadcast(size, 0)
        content = _to_tensor(data) if data is not None and rank() == 0 else _empty(int(size))
        if len(content):
            dist.broadcast(content, 0)
    return content.cpu().numpy().tobytes()


def gather_bytes(data: bytes) -> list[bytes]:
    """Return the bytes of every process, by rank, on process 0, and an empty list on the others."""
    if world_size() == 1:
        return [data]
    with answered():
        sizes = [torch.zeros(1, dtype=torch.int64, device=_device()) for _ in range(world_size())]
        dist.all_gather(sizes, torch.tensor([len(data)], device=_device()))
        longest = max(int(size) for size in sizes)
        padded = torch.cat([_to_tensor(data), _empty(longest - len(data)).zero_()])
        received = [_empty(longest) for _ in sizes] if rank() == 0 else None
        dist.gather(padded, received, 0)
    return [part[: int(n)].cpu().numpy().tobytes() for part, n in zip(received or (), sizes, strict=False)]


def gather_rows(rows: Tensor, counts: Sequence[int]) -> Tensor:
    """Return the rows of all processes, in order of rank, on every process.

    Args:
        rows: (n, ...), n = counts[rank].
        counts: Number of rows of each process.
    """
    if world_size() == 1:
        return rows
    longest = max(counts)
    padded = rows.new_zeros(longest, *rows.shape[1:])
    padded[: len(rows)] = rows
    received = [torch.empty_like(padded) for _ in counts]
    with answered():
        dist.all_gather(received, padded)
    return torch.cat([part[:count] for part, count in zip(received, counts, strict=True)])


def barrier() -> None:
    """Wait for all processes."""
    sum_over_ranks([0.0])


# --- comparisons ------------------------------------------------------------------------------------------------------


def check_same(tensors: Mapping[str, Iterable[Tensor]], *, when: str) -> None:
    """Stop unless every process holds the same tensors, bit for bit; one message of one number a name.

    Args:
        tensors: What they are -> the tensors.
        when: Said in the error.

    Raises:
        RunError: They differ.
    """
    if world_size() == 1:
        return
    own = torch.tensor([_digest(values) for values in tensors.values()], device=_device())
    everyone = [torch.empty_like(own) for _ in range(world_size())]
    with answered():
        dist.all_gather(everyone, own)
    for place, name in enumerate(tensors):
        others = [number for number, theirs in enumerate(everyone) if theirs[place] != everyone[0][place]]
        if others:
            raise RunError(
                f"The {name} of process {', '.join(map(str, others))} differ from those of process 0 {when}, but all "
                f"processes must hold the same. Go on from the last checkpoint. Look for what differs between the "
                f"processes: the hardware or a version, or a module whose own parameters change by random numbers."
            )


def _digest(tensors: Iterable[Tensor]) -> int:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return int.from_bytes(digest.digest()[:8], "little", signed=True)


@contextmanager
def raise_on_all_ranks() -> Iterator[None]:
    """Make an error of one process inside an error of all, so that none waits for one that has given up.

    Raises:
        RunError: Another process has raised an error of archgrad's inside.
    """
    failure: ArchgradError | None = None
    try:
        yield
    except ArchgradError as error:
        failure = error
    if world_size() > 1 and sum_over_ranks([float(failure is not None)])[0]:
        reports = gather_bytes(b"" if failure is None else str(failure).encode())
        told = broadcast_bytes(next((f"Process {n}: ".encode() + text for n, text in enumerate(reports) if text), b""))
        if failure is None:
            raise RunError(told.decode())
    if failure is not None:
        raise failure


def _device() -> torch.device:
    """Where short messages lie: the CPU if the group has a backend for it."""
    return torch.device("cpu") if "cpu:" in dist.get_backend_config() else torch.device("cuda")


def _empty(size: int) -> Tensor:
    return torch.empty(size, dtype=torch.uint8, device=_device())


def _to_tensor(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).to(_device()) if data else _empty(0)
