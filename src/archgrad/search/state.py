"""Everything that a search goes on from."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch.optim import Optimizer

from archgrad.buffers import set_buffers
from archgrad.distributed import rank, world_size
from archgrad.errors import RunError
from archgrad.json_text import shown
from archgrad.runs import (
    Clock,
    capture_random_state,
    checkpoint_explained,
    count_in,
    load_optimizer,
    numbers_in,
    restore_random_state,
    rows_in,
)
from archgrad.search.meter import Meter
from archgrad.sharing import gather_parts, moved_step, own_buffers, place_buffers
from archgrad.supernet import Supernet

__all__ = ["SearchState"]

_FORMAT = "archgrad.search"
_VERSION = 2
"""Version 1 had no stages and no stopping rules; it is read as one without."""


@dataclass
class SearchState:
    """The state of a search between two steps.

    Weights, alphas, optimizers and the relaxation's generator are the same on every process. Running statistics of
    BatchNorm, means so far and global random states are each process's own.
    """

    supernet: Supernet
    weights_optimizer: Optimizer
    alphas_optimizer: Optimizer
    batch: int
    """Samples of a full batch over all processes."""
    batches_per_epoch: int
    samples: int
    """Of the training data, both halves."""
    epoch: int = 0
    """The epoch that is running, or comes next."""
    step: int = 0
    """Steps done in it."""
    skipped: int = 0
    """Steps left out so far because a loss or gradient was not finite."""
    clock: Clock = field(default_factory=Clock)
    """Time spent, that of earlier starts included."""
    meter: Meter = field(default_factory=Meter)
    """Means of this epoch so far."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """The metrics of each finished epoch."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What the result depends on beside the seed; part of each architecture's provenance, of no checkpoint."""
    past: list[str] = field(default_factory=list)
    """The architecture of each finished epoch as JSON, where a stopping rule may return an earlier one."""

    def state_dict(self) -> dict[str, Any]:
        """Return plain data and tensors for a checkpoint; every process must call this, and process 0's is whole."""
        own = {
            "meter": self.meter.state_dict(),
            "random": capture_random_state(),
            "buffers": own_buffers(self.supernet.network),
        }
        return {
            "format": _FORMAT,
            "version": _VERSION,
            "kept": {label: list(left) for label, left in self.supernet.kept.items()},
            "past": self.past,
            "supernet": dict(self.supernet.state_dict()),
            "generator": self.supernet.generator.get_state(),
            "weights_optimizer": self.weights_optimizer.state_dict(),
            "alphas_optimizer": self.alphas_optimizer.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "skipped": self.skipped,
            "batch": self.batch,
            "batches_per_epoch": self.batches_per_epoch,
            "samples": self.samples,
            "clock": asdict(self.clock),
            "history": self.history,
            "ranks": gather_parts(own),
        }

    def load_state_dict(self, state: Any) -> bool:
        """Go on from what `state_dict` gave, with the same number of processes or another.

        Returns:
            Whether the number of processes is the same. If not, the random states are left as they are, and `step` is
            moved to where the epoch's samples are done.

        Raises:
            RunError: It is not the state of a search, or not of this space.
        """
        if not isinstance(state, dict) or state.get("format") != _FORMAT or state.get("version") not in (1, _VERSION):
            raise RunError("The checkpoint is not that of a search. Resume the run with the command that started it.")
        if state.get("samples") != self.samples:
            raise RunError(
                f"The run had {shown(state.get('samples'))} training samples, but the data now has {self.samples}. "
                f"Resume with the data that the run was started with."
            )
        with checkpoint_explained("search"):
            names = {name.removeprefix("network.") for name in state["supernet"]}
            place_buffers(self.supernet.network, state["ranks"], names, device=self._device)
            self.supernet.load_state_dict(state["supernet"])
            self.supernet.generator.set_state(state["generator"].cpu().to(torch.uint8))
            load_optimizer(self.weights_optimizer, state["weights_optimizer"])
            load_optimizer(self.alphas_optimizer, state["alphas_optimizer"])
            self.epoch, self.step = count_in(state, "epoch"), count_in(state, "step")
            self.skipped = count_in(state, "skipped")
            self.clock = Clock(**numbers_in(state["clock"], "the clock", finite=True))
            self.history = rows_in(state["history"], "the history")
            self.supernet.kept = {label: tuple(left) for label, left in state.get("kept", {}).items()}
            self.past = list(state.get("past", []))
            return self._load_own(state)

    @property
    def _device(self) -> torch.device:
        return next(iter(self.supernet.alphas.values())).device

    def _load_own(self, state: dict[str, Any]) -> bool:
        parts = state["ranks"]
        if len(parts) == world_size():
            own = parts[rank()]
            self.meter.load_state_dict(own["meter"])
            # Again, as the state dict has process 0's running statistics.
            set_buffers(self.supernet.network, own.get("buffers", {}), device=self._device)
            restore_random_state(own["random"])
            return True
        self.meter = Meter.shared([part["meter"] for part in parts], world_size())
        self.step = moved_step(
            self.step,
            batch_before=count_in(state, "batch", least=1),
            batches_before=count_in(state, "batches_per_epoch", least=1),
            batch=self.batch,
            batches=self.batches_per_epoch,
        )
        return False
