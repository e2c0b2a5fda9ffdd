"""What a person sees of a study: one line for all of it and one for each run that goes on; plain lines elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from archgrad.report.read import read_config_file, read_table
from archgrad.study.jobs import Job
from archgrad.study.runner import Outcome
from archgrad.terminal import escaped, say

__all__ = ["StudyProgress"]

_LOOK_SECONDS = 2.0


class StudyProgress:
    """The progress of a study; a context manager.

    Args:
        quiet: Whether to show nothing.
    """

    def __init__(self, *, quiet: bool) -> None:
        console = Console(stderr=True)
        self._quiet = quiet
        self._lines = not quiet and not console.is_terminal
        self._bars = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            console=console, disable=quiet or self._lines,
        )  # fmt: skip
        self._tasks: dict[str, tuple[TaskID, Job]] = {}
        self._all: TaskID | None = None
        self._total = self._ended = 0
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> StudyProgress:
        self._bars.start()
        if not self._bars.disable:
            self._watch.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._bars.stop()

    def begin(self, jobs: Sequence[Job]) -> None:
        """Say how many runs there are."""
        self._total = len(jobs)
        self._all = self._bars.add_task("all runs", total=self._total)

    def started(self, job: Job) -> None:
        """Show a run that begins or is resumed."""
        self._tasks[job.name] = self._bars.add_task(escaped(job.name), total=None), job

    def ended(self, job: Job, outcome: Outcome) -> None:
        """Count a run that ended, and say what went wrong."""
        self._ended += 1
        began = self._tasks.pop(job.name, None)
        if began is not None:
            self._bars.remove_task(began[0])
        if self._all is not None:
            self._bars.update(self._all, completed=self._ended)
        state = f"done in {outcome.seconds:.0f} s" if outcome.done else f"failed: {outcome.reason}"
        if began is None and outcome.done:
            state = "was done before"
        if self._lines:
            say(f"[{self._ended}/{self._total}] {job.name}: {state}", error=True)
        elif not outcome.done and not self._quiet:
            self._bars.console.print(f"{job.name}: {state}", markup=False, highlight=False)

    def _look(self) -> None:
        """Read now and then how far the runs are."""
        while not self._over.wait(_LOOK_SECONDS):
            for task, job in list(self._tasks.values()):
                with suppress(Exception):  # a file that is being written, or not there yet: the next look will do
                    done = len(read_table(job.folder / "metrics.csv").epochs)
                    planned = read_config_file(job.folder / "config.yaml").get("epochs")
                    self._bars.update(task, completed=done, total=planned)
