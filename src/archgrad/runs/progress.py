"""What a person sees while a run goes on: a live table on a terminal and in a notebook, plain lines elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, TextIO, cast

import torch
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from archgrad.runs.cell_output import CellOutput
from archgrad.runs.environment import peak_memory_mb
from archgrad.sizes import check_whole
from archgrad.terminal import Output, escaped, printable

__all__ = ["Progress"]

_REFRESH_SECONDS = 0.5
_SHOWN_EPOCHS = 6
_LABELS = {
    "train_loss": "train loss",
    "train_accuracy": "train acc",
    "valid_loss": "valid loss",
    "valid_accuracy": "valid acc",
    "test_loss": "test loss",
    "test_accuracy": "test acc",
    "alphas_entropy": "α entropy",
    "skip_connections": "skips",
}

Figures = Mapping[str, Any]
"""Names as in metrics.csv; values are numbers, or None where there is none (yet)."""


class Progress:
    """The progress of one run; a context manager.

    Only rank 0 shows progress; the others pass `quiet=True`. A step costs microseconds except when the display is
    renewed, twice a second at most; only then are the current figures read, so that a GPU is not waited for in each
    step.

    Args:
        title: What runs, such as "search".
        figures: Names of the metrics to show, in order; a user's own ("train_...", "valid_...") are shown after them.
        epochs: How many epochs the run has.
        steps: How many steps an epoch has.
        device: Where the run computes; its memory is shown.
        unit: What its samples are called.
        log_frequency: Steps from one plain line to the next, at least 1; None writes a line per epoch only. On a
            terminal and in a notebook the live table is renewed by time instead.
        quiet: Whether to show nothing.
        file: Where to write; None is the notebook's cell, or standard error.

    Raises:
        OptionError: `log_frequency` is no whole number of at least 1.
    """

    def __init__(
        self,
        title: str,
        figures: Sequence[str],
        *,
        epochs: int,
        steps: int,
        device: torch.device,
        unit: str = "samples",
        log_frequency: int | None = None,
        quiet: bool = False,
        file: TextIO | None = None,
    ) -> None:
        if log_frequency is not None:
            check_whole("log_frequency", log_frequency, least=1)
        self._title = title
        self._names = tuple(figures)
        self._epochs = epochs
        self._steps = steps
        self._device = device
        self._unit = unit
        self._log_frequency = log_frequency
        self._quiet = quiet
        self._file = Output(sys.stderr if file is None else file)
        self._live = None if quiet else self._opened(notebook=file is None)
        self._rows: list[tuple[int, Figures]] = []
        self._epoch, self._step = 0, 0
        self._done_here = 0
        self._epoch_samples = 0
        self._started = self._epoch_started = self._refreshed = time.perf_counter()

    def _opened(self, *, notebook: bool) -> Live | CellOutput | None:
        console = Console(file=cast(TextIO, self._file))
        if console.is_jupyter:
            return CellOutput() if notebook else None
        return Live(console=console, auto_refresh=False) if console.is_terminal else None

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start()
        self._started = self._epoch_started = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def start_epoch(self, epoch: int) -> None:
        """Say that an epoch begins, or is gone on with.

        Args:
            epoch: 0-based.
        """
        self._epoch, self._epoch_samples = epoch, 0
        self._epoch_started = time.perf_counter()

    def step(self, step: int, *, samples: int, read: Callable[[], Figures]) -> None:
        """Say that a step is done.

        Args:
            step: 0-based within the epoch.
            samples: How many it took.
            read: Gives the figures so far in this epoch; called only when they are shown.
        """
        self._step = step
        self._done_here += 1
        self._epoch_samples += samples
        if self._quiet:
            return
        if self._live is not None:
            now = time.perf_counter()
            if now - self._refreshed >= _REFRESH_SECONDS:
                self._refreshed = now
                self._renew(read())
        elif self._log_frequency is not None and (step + 1) % self._log_frequency == 0 and step + 1 < self._steps:
            self._write_line(read())  # after the last step comes the epoch's own line

    def end_epoch(self, row: Figures) -> None:
        """Say that an epoch is done.

        Args:
            row: Its figures; those neither named at the start nor a user's own are not shown.
        """
        if self._quiet:
            return
        if self._live is not None:
            self._rows = [*self._rows, (self._epoch, row)][-_SHOWN_EPOCHS:]
            self._renew(None)
        else:
            self._write_line(row)

    def message(self, text: str) -> None:
        """Write a line above the display."""
        if self._quiet:
            return
        if isinstance(self._live, Live):
            self._live.console.print(escaped(text), markup=False, highlight=False)
        else:
            self._print(text)

    def _write_line(self, figures: Figures) -> None:
        shown = [f"{_label(name)} {_format(name, figures[name])}" for name in self._columns(figures) if name in figures]
        self._print(" | ".join([*self._status(), *shown]))

    def _print(self, text: str) -> None:
        self._file.write(escaped(text) + "\n")
        self._file.flush()

    def _columns(self, *rows: Figures) -> list[str]:
        own = (name for row in rows for name in row if name.startswith(("train_", "valid_")))
        return list(dict.fromkeys([*self._names, *own]))

    def _status(self) -> list[str]:
        now = time.perf_counter()
        remaining = self._epochs * self._steps - (self._epoch * self._steps + self._step + 1)
        memory = peak_memory_mb(self._device)
        said = [f"{self._title} epoch {self._epoch + 1}/{self._epochs}", f"step {self._step + 1}/{self._steps}"]
        if self._epoch_samples:  # a resumed run may have had nothing left to do of this epoch
            rate = self._epoch_samples / max(now - self._epoch_started, 1e-9)
            said.append(f"{rate:.0f} {self._unit}/s" if rate >= 10 else f"{rate:.2g} {self._unit}/s")
        if self._done_here:
            said.append(f"{_duration(remaining * (now - self._started) / self._done_here)} left")
        return said if memory is None else [*said, f"{memory:.0f} MB"]

    def _renew(self, current: Figures | None) -> None:
        assert self._live is not None
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("epoch", justify="right")
        rows = self._rows if current is None else [*self._rows, (self._epoch, current)][-_SHOWN_EPOCHS:]
        names = self._columns(*(figures for _, figures in rows))
        for name in names:
            table.add_column(Text(_label(name)), justify="right")  # Text, since a user's name may look like markup
        for epoch, figures in rows:
            running = figures is current
            cells = [_format(name, figures.get(name)) if name in figures else "" for name in names]
            table.add_row(str(epoch + 1), *cells, style="bold" if running else None)
        done = self._epoch * self._steps + self._step + 1
        bar = ProgressBar(total=max(self._epochs * self._steps, 1), completed=done, width=40)
        head = Table.grid()  # a bar by itself ends no line
        head.add_row(Text("  ".join(self._status())))
        head.add_row(bar)
        self._live.update(Group(head, table), refresh=True)


def _label(name: str) -> str:
    return printable(_LABELS.get(name, name.replace("_", " ")))


def _format(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, int):
        return str(value)
    if name.endswith("_accuracy"):
        return f"{100 * value:.2f} %"
    return f"{value:.4f}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
