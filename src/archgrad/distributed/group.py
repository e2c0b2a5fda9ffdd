"""The process group of a run."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from archgrad.distributed.heartbeat import Heartbeat
from archgrad.distributed.launch import Launch, find_launch, restarts
from archgrad.distributed.messages import barrier
from archgrad.errors import RunError

__all__ = ["local_rank_zero_first", "process_group"]

_START_SECONDS = 300
_numbers = itertools.count()


@contextmanager
def process_group() -> Iterator[None]:
    """Connect the processes that a launcher has started together, for the time of the block.

    gloo carries what lies on the CPU and NCCL what lies on GPUs. A group that the caller has set up is used as it is,
    and without a launcher, or with one that started a single process, nothing happens.

    Raises:
        RunError: The processes do not find each other.
        OptionError: The launcher's settings cannot be used.
    """
    launch = None if dist.is_available() and dist.is_initialized() else find_launch()
    if launch is None:
        yield
        return
    heartbeat = _connect(launch)
    try:
        yield
        barrier()  # a process that still writes its results is not dead
    except SystemExit:  # an interruption, which all processes agree on
        raise
    except BaseException as error:
        first_sentence = str(error).partition(". ")[0]
        heartbeat.raise_alarm(f"process {launch.rank} stopped: {type(error).__name__}: {first_sentence}")
        raise
    finally:
        heartbeat.stop()
        dist.destroy_process_group()


def _connect(launch: Launch) -> Heartbeat:
    if torch.cuda.is_available() and launch.local_rank < torch.cuda.device_count():
        torch.cuda.set_device(launch.local_rank)
    try:
        # torchrun keeps one store over its restarts, and a script may run several groups: none meets another's keys.
        store = dist.PrefixStore(f"archgrad/{restarts()}/{next(_numbers)}", _store(launch))
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
            store=dist.PrefixStore("group", store),
            rank=launch.rank,
            world_size=launch.world_size,
        )
        heartbeat = Heartbeat(dist.PrefixStore("heartbeat", store).clone(), launch.rank, launch.world_size)
        barrier()
    except RuntimeError as error:
        raise RunError(
            f"Process {launch.rank} of {launch.world_size} could not connect to the others at {launch.address}:"
            f"{launch.port} ({str(error).splitlines()[0]}). Check that all processes were started and can reach it."
        ) from error
    return heartbeat


@functools.cache
def _store(launch: Launch) -> dist.Store:
    # "tcp://" knows torchrun, whose agent holds the store itself and has a part of it for each restart.
    rendezvous = dist.rendezvous(
        f"tcp://{launch.address}:{launch.port}",
        launch.rank,
        launch.world_size,
        timeout=timedelta(seconds=_START_SECONDS),
    )
    store: dist.Store = next(iter(rendezvous))[0]
    return store


@contextmanager
def local_rank_zero_first() -> Iterator[None]:
    """Let one process of each machine go through the block before the others, so that they find what it has fetched."""
    launch = find_launch()
    first = launch is None or launch.local_rank == 0
    if not first:
        barrier()
    yield
    if first:
        barrier()
