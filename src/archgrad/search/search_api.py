"""The search as a function: options in, architecture out."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from archgrad.architecture import Architecture
from archgrad.distributed import rank
from archgrad.margins import agreement_of, margins_of, undecided_note
from archgrad.options import takes
from archgrad.report.results import Viewed
from archgrad.runs import Halted, Interrupted
from archgrad.search.constant import constant_warning
from archgrad.search.prepared import prepared
from archgrad.search.search_options import SearchOptions
from archgrad.stopping import Stop
from archgrad.supernet import Supernet

__all__ = ["SearchResult", "search"]


@dataclass(frozen=True, repr=False)
class SearchResult(Viewed):
    """What a search gives.

    Attributes:
        architecture: Derived after the last epoch, or the one that the stopping rule returns.
        supernet: With the weights and alphas of the last epoch, on its device; of an ensemble, those of the
            last member.
        history: One row of metrics an epoch, as in metrics.csv.
        run_dir: Where the run lies, if it was given a folder.
        stop: Why the search ended before its last epoch, if it did; of an ensemble, None.
    """

    architecture: Architecture
    supernet: Supernet
    history: list[dict[str, Any]]
    run_dir: Path | None
    stop: Stop | None = None

    @property
    def margins(self) -> dict[str, float]:
        """By row of alphas, the probability that the taken candidate has before the next, smallest first; -1 to 1."""
        return margins_of(self.architecture)

    @property
    def agreement(self) -> dict[str, float]:
        """By row of alphas, the share of an ensemble's members that decided as all together, lowest first."""
        return agreement_of(self.architecture)

    def _remark(self) -> str:
        return "; the alphas hardly moved" if undecided_note(self.architecture) else ""


@takes(SearchOptions)
def search(options: SearchOptions) -> SearchResult:
    """Search the architecture of a space by gradient descent (Liu et al. 2019, algorithm 1).

    The training data is split in two; each step updates the alphas on a batch of one half and the weights on a batch of
    the other. On a CPU the same seed gives the same result by the same path (`fast`), also when the run was interrupted
    and resumed. Global random states are the caller's again afterwards.

    Where torchrun or SLURM has started several processes, they search together: each sees its part of every batch,
    gradients are averaged, and process 0 writes. All call this with the same arguments. A run that torchrun starts
    again (`--max-restarts`) goes on from its checkpoint.

    Returns:
        The architecture and what led to it.

    Raises:
        OptionError: An option is outside its range, or does not go with the others; the network's outputs, the targets
            and the loss do not go together.
        DataError: The data is too small or broken.
        SpaceError: The space has no choices, or they conflict.
        RunError: The run folder is in use, taken, or does not fit; or another process of the run is gone.
        NonFiniteError: A loss or gradient is NaN or infinite and `on_nonfinite` is "stop".
        Interrupted: SIGTERM, SIGINT or SIGHUP came, or `max_minutes` are over; the state was saved.
        Halted: Ctrl-C or a notebook's stop button came, without a run folder or in IPython; the step was finished, and
            `result` has what the run came to so far.
    """
    with prepared(options) as (run, engine, data):
        run_dir = None if options.run_dir is None else Path(options.run_dir)
        try:
            architecture, leads = engine.run(), rank() == 0
        except (Halted, Interrupted) as ended:
            ended.result = SearchResult(run.present_architecture(), run.supernet, run.history, run_dir)
            raise
    if leads and (constant := constant_warning(run.supernet, architecture, data)) is not None:
        warnings.warn(constant, stacklevel=3)
    return SearchResult(architecture, run.supernet, run.history, run_dir, run.stop)
