"""What a search and a retraining have in common: the epochs of a run, its checkpoints, interruptions and resuming.

- `run`: what a kind of run supplies, and the state between two of its steps.
- `epochs`: the loop over steps and epochs.
- `on_epoch`: what a caller is told at the end of an epoch, and may answer.
- `run_options`, `training_options`: the options of every run, and of all training of weights.
- `opening`: run folder, checkpoint, loggers and progress of a run.
- `path_choice`: the path that is the quickest, found by measurement; `no_trace`: passes that change nothing.
"""

from archgrad.engine.epochs import Engine
from archgrad.engine.on_epoch import EpochState, OnEpoch
from archgrad.engine.opening import opened
from archgrad.engine.run import EpochSummary, Run
from archgrad.engine.run_options import OF_ONE_CALL, Resume, RunOptions
from archgrad.engine.training_options import OnNonfinite, Precision, Schedule, TrainingOptions

__all__ = [
    "OF_ONE_CALL",
    "Engine",
    "EpochState",
    "EpochSummary",
    "OnEpoch",
    "OnNonfinite",
    "Precision",
    "Resume",
    "Run",
    "RunOptions",
    "Schedule",
    "TrainingOptions",
    "opened",
]
