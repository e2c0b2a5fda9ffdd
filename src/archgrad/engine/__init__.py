"""What a search and a retraining have in common: the epochs of a task, its checkpoints, interruptions and resuming.

- `task`: what a kind of run supplies, and the state between two of its steps.
- `epochs`: the loop over steps and epochs.
- `on_epoch`: what a caller is told at the end of an epoch, and may answer.
- `opening`: run folder, checkpoint, loggers and progress of a run.
"""

from archgrad.engine.epochs import Engine
from archgrad.engine.on_epoch import EpochState, OnEpoch
from archgrad.engine.opening import Resume, RunOptions, opened
from archgrad.engine.task import EpochSummary, Task

__all__ = ["Engine", "EpochState", "EpochSummary", "OnEpoch", "Resume", "RunOptions", "Task", "opened"]
