"""The search as a function: options in, architecture out."""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from archgrad.architecture import Architecture
from archgrad.data import as_data
from archgrad.distributed import (
    local_rank_zero_first,
    own_device,
    process_group,
    raise_on_all_ranks,
    rank,
)
from archgrad.engine import opened
from archgrad.machine import check_main_guard
from archgrad.margins import agreement_of, margins_of, undecided_note
from archgrad.methods.tree import tree_of
from archgrad.named_space import space_of
from archgrad.options import takes
from archgrad.report.results import Viewed
from archgrad.runs import Halted, Interrupted, pick_device, seeded
from archgrad.search.constant import constant_warning
from archgrad.search.loaders import Halves
from archgrad.search.measured_halves import task_of_search
from archgrad.search.search_options import SearchOptions, SearchRunOptions
from archgrad.search.search_task import SearchTask
from archgrad.search.settings import settings_of
from archgrad.search.stage_builder import StageBuilder
from archgrad.search.trial import try_out
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
    the other. On a CPU the same seed gives the same result, also when the run was interrupted and resumed. Global
    random states are the caller's again afterwards.

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
    check_main_guard()
    method = options.chosen_method
    device = pick_device(own_device(options.device))

    with ExitStack() as stack:
        stack.enter_context(process_group())
        with raise_on_all_ranks(), local_rank_zero_first():
            data = as_data(options.data)
        stack.enter_context(seeded(options.seed))
        chosen = task_of_search(options, data)
        builder = stack.enter_context(
            StageBuilder(space_of(options.space, data, outputs=len(chosen.task.labels)), options, device)
        )
        first = builder.build(0)
        halves = stack.enter_context(Halves(data, options, device))
        config = {
            **(options.config or {}),  # first, so that what the caller says of space and data stands at the top
            **options.recipe(),
            "method": tree_of(method),
            **options.kept(SearchRunOptions),
            "device": str(device),
            **(options.config or {}),
        }
        task = SearchTask(
            builder,
            first,
            halves,
            options=options,
            chosen=chosen,
            samples=len(data.train_targets),
            settings=settings_of(options, config, data.name),
        )
        with task.explained():
            try_out(first.supernet, data, options, chosen.task)
        engine = stack.enter_context(opened(task, options, config=config, data=data, said=chosen.line))
        run_dir = None if options.run_dir is None else Path(options.run_dir)
        try:
            architecture, leads = engine.run(), rank() == 0
        except (Halted, Interrupted) as ended:
            ended.result = SearchResult(task.present_architecture(), task.supernet, task.history, run_dir)
            raise
    if leads and (constant := constant_warning(task.supernet, architecture, data)) is not None:
        warnings.warn(constant, stacklevel=3)
    return SearchResult(architecture, task.supernet, task.history, run_dir, task.stop)
