"""What a kind of run supplies to the engine, and the state between two of its steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from archgrad.architecture import Architecture
from archgrad.buffers import set_buffers
from archgrad.data import InfiniteLoader
from archgrad.distributed import rank, world_size
from archgrad.rank_state import describe_move, gather_parts, moved_step, own_buffers, seed_for_rank
from archgrad.runs import (
    Clock,
    Loggers,
    Progress,
    RunFolder,
    capture_random_state,
    checkpoint_explained,
    count_in,
    memory_explained,
    numbers_in,
    restore_random_state,
)
from archgrad.runs.run_folder import Command

__all__ = ["EpochSummary", "Result", "Run"]

Result = TypeVar("Result")


class EpochSummary(NamedTuple):
    """What an epoch came to."""

    row: dict[str, Any]
    """Of metrics.csv; "epoch" is among it."""
    shown: Mapping[str, Any]
    """What the progress display is told of it."""
    images: int
    """Training samples of the epoch, over all processes."""


class Run(ABC, Generic[Result]):
    """A search or a retraining, as the engine runs it.

    The network and what trains it are the same on every process. Running statistics of BatchNorm, sums of the epoch and
    global random states are each process's own.

    Args:
        network: What is trained.
        streams: Where the batches of a step come from, one of each; the first is that of the training samples.
        device: Where the network computes.
        epochs: How many the run has.
        batch_size: Samples of a batch of a stream, on each process.
        seed: Of the run.
        fixed_length: Why a run of so many epochs is no beginning of one of more, in words; empty where it is.

    Attributes:
        epoch: The epoch that is running, or comes next, 0-based.
        step: Steps done in it.
        clock: Time spent, that of earlier starts included.
        history: One row a finished epoch, as in metrics.csv.
        told_to_stop: Whether the run ends after the epoch that has ended, as its caller asked at the end of it.
        folder: Where everything goes; None writes nothing, as on all processes but the first.
        loggers: Where rows go besides.
        progress: Shows what happens.
    """

    command: ClassVar[Command]
    """What starts it, and what it is called in checkpoints' errors."""
    title: ClassVar[str]
    """What messages begin with."""
    kind: ClassVar[str]
    """What errors call it."""
    shown: Sequence[str]
    """Metrics that the progress display shows."""
    directions: Mapping[str, str]
    """Metric -> whether its "highest" or its "lowest" value is best."""
    may_differ: ClassVar[Sequence[str]]
    """Options that a resumed run may change: the result does not depend on them (beyond rounding), or could not go on.
    """
    steps_between_looks: int = 1
    """Steps from one look at the other processes' control flags to the next; on a GPU a look waits for the device."""
    progress: Progress

    def __init__(
        self,
        network: nn.Module,
        streams: Sequence[InfiniteLoader],
        *,
        device: torch.device,
        epochs: int,
        batch_size: int,
        seed: int,
        fixed_length: str,
    ) -> None:
        self.network, self.streams, self.device = network, streams, device
        self.epochs, self.seed, self.fixed_length = epochs, seed, fixed_length
        self.batch, self.batches_per_epoch = batch_size * world_size(), streams[0].batches_per_epoch
        self.epoch = self.step = 0
        self.clock = Clock()
        self.history: list[dict[str, Any]] = []
        self.told_to_stop = False
        self.folder: RunFolder | None = None
        self.loggers = Loggers([])

    # --- what a kind of run supplies ----------------------------------------------------------------------------------

    @property
    @abstractmethod
    def remedies(self) -> str:
        """What to try where memory is short, in words."""

    @property
    @abstractmethod
    def replicated(self) -> Mapping[str, Iterable[Tensor]]:
        """What every process must hold alike: name -> tensors."""

    @abstractmethod
    def start_epoch(self) -> None:
        """Set what changes with the epoch, which may be gone on with."""

    @abstractmethod
    def take_step(self, batches: Sequence[tuple[Any, Any]]) -> None:
        """Take a step on a batch of each stream."""

    @abstractmethod
    def figures(self) -> Mapping[str, Any]:
        """Return the figures of the running epoch for the progress display."""

    @abstractmethod
    def end_epoch(self) -> EpochSummary:
        """Measure what the epoch came to, and begin the sums of the next."""

    @abstractmethod
    def result(self) -> Result:
        """Return what the run came to, after its last epoch."""

    @abstractmethod
    def common_state(self) -> dict[str, Any]:
        """Return what a checkpoint holds of this kind of run and every process has alike."""

    @abstractmethod
    def sums_state(self) -> dict[str, Any]:
        """Return this process's sums of the epoch so far."""

    @abstractmethod
    def check_state(self, state: Any) -> None:
        """Raise `RunError` unless it is the state of a run of this kind and this data."""

    @abstractmethod
    def load_states(self, state: Mapping[str, Any], parts: Sequence[Mapping[str, Any]]) -> None:
        """Take over what `common_state` gave and, in `parts`, each process's `sums_state`; anything may be raised."""

    @staticmethod
    def modernised(config: dict[str, Any]) -> dict[str, Any]:
        """Bring the options of an earlier version's run to their present form."""
        return config

    @property
    def finished(self) -> bool:
        """Whether no epoch is left."""
        return self.epoch >= self.epochs or self.told_to_stop

    @property
    def batches_done(self) -> int:
        """How many batches were taken from each stream."""
        return self.epoch * self.batches_per_epoch + self.step

    def settle(self) -> None:
        """Wait for what the steps have left on the device, and raise if it must not be saved."""

    def told(self) -> tuple[Architecture | None, nn.Module]:
        """Return what a caller is told at the end of an epoch: the architecture, if any, and what is trained."""
        return None, self.network

    def publish_epoch(self) -> None:
        """Write and say what belongs to the epoch besides its row."""

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn what the steps raise into errors that say what to do."""
        with memory_explained(self.remedies):
            yield

    # --- the state between two steps ----------------------------------------------------------------------------------

    @property
    def waiting_seconds(self) -> float:
        """Time spent waiting for batches."""
        return sum(stream.waiting_seconds for stream in self.streams)

    def state_dict(self) -> dict[str, Any]:
        """Return plain data and tensors for a checkpoint; every process must call this, and process 0's is whole."""
        own = {**self.sums_state(), "random": capture_random_state(), "buffers": own_buffers(self.network)}
        return {
            **self.common_state(),
            "epoch": self.epoch,
            "step": self.step,
            "told_to_stop": self.told_to_stop,
            "batch": self.batch,
            "batches_per_epoch": self.batches_per_epoch,
            "clock": asdict(self.clock),
            "ranks": gather_parts(own),
        }

    def load_state_dict(self, state: Any) -> str:
        """Take over what `state_dict` gave, with the same number of processes or another.

        Returns:
            What to say where the number is another; `step` is then moved to where the epoch's samples are done.

        Raises:
            RunError: It is not the state of such a run, or not of this network and data.
        """
        self.check_state(state)
        with checkpoint_explained(self.kind):
            parts = state["ranks"]
            self.load_states(state, parts)
            self.epoch, self.step = count_in(state, "epoch"), count_in(state, "step")
            self.told_to_stop = state.get("told_to_stop") is True  # checkpoints of earlier versions say nothing
            self.clock = Clock(**numbers_in(state["clock"], "the clock", finite=True))
            if len(parts) == world_size():
                own = parts[rank()]
                # Again, as the network's state dict has process 0's running statistics.
                set_buffers(self.network, own.get("buffers", {}), device=self.device)
                restore_random_state(own["random"])
                return ""
            self.step = moved_step(
                self.step,
                batch_before=count_in(state, "batch", least=1),
                batches_before=count_in(state, "batches_per_epoch", least=1),
                batch=self.batch,
                batches=self.batches_per_epoch,
            )
        seed_for_rank(self.seed, self.epoch, self.step)
        return describe_move(len(parts), epoch=self.epoch, step=self.step, batches=self.batches_per_epoch)
