"""Everything that a search goes on from."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch.optim import Optimizer

from archgrad.distributed import rank, world_size
from archgrad.errors import RunError
from archgrad.runs import Clock, capture_random_state, restore_random_state
from archgrad.search.meter import Meter
from archgrad.sharing import gather_parts, moved_step
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
    past: list[str] = field(default_factory=list)
    """The architecture of each finished epoch as JSON, where a stopping rule may return an earlier one."""

    def state_dict(self) -> dict[str, Any]:
        """Return plain data and tensors for a checkpoint; every process must call this, and process 0's is whole."""
        own = {"meter": self.meter.state_dict(), "random": capture_random_state()}
        if world_size() > 1:
            own["buffers"] = dict(self.supernet.network.named_buffers())
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
                f"The run had {state.get('samples')} training samples, but the data now has {self.samples}. "
                f"Resume with the data that the run was started with."
            )
        try:
            self.supernet.load_state_dict(state["supernet"])
            self.supernet.generator.set_state(state["generator"].cpu().to(torch.uint8))
            self.weights_optimizer.load_state_dict(state["weights_optimizer"])
            self.alphas_optimizer.load_state_dict(state["alphas_optimizer"])
            self.epoch, self.step = state["epoch"], state["step"]
            self.skipped, self.clock = state["skipped"], Clock(**state["clock"])
            self.history = list(state["history"])
            self.supernet.kept = {label: tuple(left) for label, left in state.get("kept", {}).items()}
            self.past = list(state.get("past", []))
            return self._load_own(state)
        except (KeyError, ValueError, RuntimeError, TypeError) as error:
            raise RunError(
                f"The checkpoint does not fit this search ({str(error).splitlines()[0]}). "
                f"Resume with the space and options that the run was started with."
            ) from error

    def _load_own(self, state: dict[str, Any]) -> bool:
        parts = state["ranks"]
        if len(parts) == world_size():
            own = parts[rank()]
            self.meter.load_state_dict(own["meter"])
            for name, buffer in self.supernet.network.named_buffers():
                if name in own.get("buffers", {}):
                    buffer.copy_(own["buffers"][name])
            restore_random_state(own["random"])
            return True
        self.meter = Meter.shared([part["meter"] for part in parts], world_size())
        self.step = moved_step(
            self.step,
            batch_before=state["batch"],
            batches_before=state["batches_per_epoch"],
            batch=self.batch,
            batches=self.batches_per_epoch,
        )
        return False
