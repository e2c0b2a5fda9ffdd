"""The options of any run that no result depends on."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from archgrad.checks import check_real
from archgrad.engine.on_epoch import OnEpoch, listeners
from archgrad.engine.patience import check_patience
from archgrad.errors import OptionError
from archgrad.json_text import shown
from archgrad.options import values_of
from archgrad.runs import CheckpointSchedule, check_loggers
from archgrad.sizes import check_whole

__all__ = ["OF_ONE_CALL", "Resume", "RunOptions"]

Resume = bool | Literal["auto"]
"""Whether to go on with the run in a folder; "auto" does so where the folder holds a run, and begins one where not."""

OF_ONE_CALL = ("run_dir", "resume", "overwrite", "quiet", "on_epoch", "max_minutes", "config")
"""The options of a run that are no longer its own when it is resumed, and so have no place in its config.yaml."""


@dataclass(frozen=True, kw_only=True)
class RunOptions(CheckpointSchedule):
    """Where a run goes, what computes it, when it is saved and what it shows; no result depends on them.

    Raises:
        OptionError: A value is outside its range, or does not go with the others.
    """

    device: str | torch.device = "auto"
    """"auto" (CUDA where there is one), or a torch device, such as "cpu" or "cuda:1"."""
    workers: int = 0
    """Processes that read data which is not in memory; 0 reads in this process."""
    run_dir: str | os.PathLike[str] | None = None
    """The run folder, where metrics, checkpoints and results are written; None keeps nothing on disk."""
    resume: Resume = False
    """Go on with the run in `run_dir`, from its last checkpoint; its options must be the same. "auto" begins a run if
    there is none."""
    overwrite: bool = False
    """If `run_dir` holds an earlier run, remove that and start anew."""
    log_frequency: int | None = None
    """Steps from one line to the next where output is no terminal, at least 1; None writes a line per epoch."""
    quiet: bool = False
    """Show no progress."""
    wandb: str | None = None
    """Project of Weights & Biases to log to as well."""
    mlflow: str | None = None
    """Experiment of MLflow to log to as well."""
    on_epoch: OnEpoch | Sequence[OnEpoch] | None = None
    """Function of an `archgrad.engine.EpochState`, or a list of such, called on process 0 at the end of each epoch, and
    again if the epoch is done again. One that returns True ends the run there, for good."""
    max_minutes: float | None = None
    """Save and end the run after this time, above 0; it can be resumed. None sets no limit."""
    patience: int | None = None
    """Early stopping: end the run after so many epochs, at least 1, without a new best value of `watch`. The run cannot
    have more epochs then. None runs all epochs."""
    watch: str | None = None
    """Column of metrics.csv that `patience` looks at. For the loss and the metrics the task says whether the lowest is
    best; for other columns it is the lowest if the name ends in loss or error, else the highest. By default valid_loss
    of a search, and test_loss of a retraining, whose test figures are then chosen on the test set."""
    config: Mapping[str, Any] | None = None
    """Further plain options of the caller (space, channels, ...), written to config.yaml beside these."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.resume, bool) and self.resume != "auto":
            raise OptionError(f"resume must be True, False or 'auto', but got resume={shown(self.resume)}.")
        if self.run_dir is None and (self.resume or self.overwrite):
            asked = f"resume={self.resume!r}" if self.resume else "overwrite=True"
            raise OptionError(f"{asked} needs a run folder. Give run_dir.")
        if self.resume and self.overwrite:
            raise OptionError(
                f"resume={self.resume!r} goes on with a run and overwrite=True removes it. Give one of them."
            )
        if self.log_frequency is not None:
            check_whole("log_frequency", self.log_frequency, least=1)
        listeners(self.on_epoch)
        if self.max_minutes is not None:
            check_real("max_minutes", self.max_minutes, above=0)
            if self.run_dir is None:
                raise OptionError("max_minutes needs a run folder, so that the run can go on later. Give run_dir.")
        check_patience(self.patience, self.watch)
        check_loggers(wandb=self.wandb, mlflow=self.mlflow)

    def kept(self, owner: type) -> dict[str, Any]:
        """Return those that go into config.yaml, of this class or one that extends it."""
        return {name: value for name, value in values_of(self, owner).items() if name not in OF_ONE_CALL}
