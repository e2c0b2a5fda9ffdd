"""What a search measures of its two halves: means of batches by a function, or metrics of the task over an epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from archgrad.bilevel import StepReport
from archgrad.bilevel.passes import Batch
from archgrad.data import Data
from archgrad.distributed import rank, world_size
from archgrad.search.meter import accuracy
from archgrad.search.named_metrics import NamedMetrics
from archgrad.search.search_options import SearchOptions
from archgrad.tasks import Chosen, Measure, Task

__all__ = ["MeasuredHalves", "task_of_search"]


def task_of_search(options: SearchOptions, data: Data) -> Chosen:
    """Return the task of a search.

    With a loss of the caller's and no task it is one of the caller's own, whatever the targets are. Metrics as a
    function of (outputs, targets) are means over batches, and none of the task's.

    Raises:
        OptionError: See `TaskOptions.task_for`.
    """
    if (own := options.own_loss) is not None:
        metrics = options.metrics if isinstance(options.metrics, Mapping) else {}
        return Chosen(Task(loss=own, metrics=metrics)).on(data)
    return options.task_for(data)


class MeasuredHalves:
    """The metrics of a search, of the weights' half and of the alphas'.

    Plain accuracy of classes, and a function of the caller's, are means over batches; all others are metrics of the
    task, added up over an epoch.

    Args:
        task: Of the search.
        options: Tell the metrics.
    """

    def __init__(self, task: Task, options: SearchOptions) -> None:
        own = callable(options.metrics)
        plain = task.shows == "classes" or type(task) is Task
        means: Any = options.metrics if own else accuracy if plain else _none
        self._means, self._own = NamedMetrics(means), own
        self._task = task
        self._names = [] if own else [name for name in task.metrics if not (plain and name == "accuracy")]
        self.begin()

    def of_batches(self, outputs: Any, targets: Any) -> Mapping[str, Any]:
        """Return name -> mean over a batch; a caller's function gets what metrics of the task get, as in retraining."""
        return self._means(*(self._task.measured(outputs, targets) if self._own else (outputs, targets)))

    def begin(self) -> None:
        """Begin the sums of an epoch."""
        self._halves = {half: Measure(self._task, self._names) for half in ("train", "valid")}

    def add(self, report: StepReport, train_batch: Batch, valid_batch: Batch) -> None:
        """Add the outputs of a step."""
        if not self._names:
            return
        for half, batch, outputs in (
            ("train", train_batch, report.train_outputs),
            ("valid", valid_batch, report.valid_outputs),
        ):
            if outputs is not None:  # the alphas wait
                self._halves[half].add(outputs, batch[1])

    def values(self) -> dict[str, float | None]:
        """Return the columns of the epoch so far, of this process."""
        of_halves = self._halves.items() if self._names else ()
        return {f"{half}_{name}": value for half, part in of_halves for name, value in part.values().items()}

    def end(self) -> dict[str, float | None]:
        """Return the columns of the epoch, of all processes, and begin the next."""
        self._halves = {half: measure.over_ranks() for half, measure in self._halves.items()}
        values = self.values()
        self.begin()
        return values

    def state_dict(self) -> dict[str, Any]:
        """Return this process's sums of the epoch so far."""
        return {half: measure.state() for half, measure in self._halves.items()}

    def load(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Take over the sums of as many processes as there are, or of others, which process 0 adds up.

        Runs of earlier versions have none.

        Raises:
            KeyError, TypeError, ValueError: They are something else.
        """
        mine = states[rank() :][:1] if len(states) == world_size() else states if rank() == 0 else ()
        self.begin()
        for half, measure in self._halves.items():
            measure.load([state[half] for state in mine if half in state])


def _none(outputs: Any, targets: Any) -> dict[str, float]:
    return {}
