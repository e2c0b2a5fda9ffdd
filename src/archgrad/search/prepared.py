"""What a search needs before its first step: the data, the supernet, the run folder."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import NamedTuple

import torch

from archgrad.architecture import Architecture
from archgrad.data import Data, as_data
from archgrad.distributed import local_rank_zero_first, own_device, process_group, raise_on_all_ranks
from archgrad.engine import Engine, opened
from archgrad.machine import check_main_guard
from archgrad.methods.tree import tree_of
from archgrad.named_space import space_of
from archgrad.runs import pick_device, seeded
from archgrad.search.derived_check import other_network_warning
from archgrad.search.loaders import Halves
from archgrad.search.measured_halves import task_of_search
from archgrad.search.search_options import SearchOptions, SearchRunOptions
from archgrad.search.search_run import SearchRun
from archgrad.search.settings import settings_of
from archgrad.search.stage_builder import StageBuilder
from archgrad.search.trial import first_inputs, try_out
from archgrad.search.widening import StageState
from archgrad.tasks import Chosen

__all__ = ["Built", "Prepared", "built", "prepared"]


class Built(NamedTuple):
    """What a search's run is made of."""

    chosen: Chosen
    """What is learnt."""
    builder: StageBuilder
    first: StageState
    """Of the first stage."""
    halves: Halves


@contextmanager
def built(options: SearchOptions, data: Data, device: torch.device) -> Iterator[Built]:
    """Build the first supernet of a search, with the random numbers of its seed."""
    with ExitStack() as stack:
        stack.enter_context(seeded(options.seed))
        chosen = task_of_search(options, data)
        space = space_of(options.space, data, outputs=len(chosen.task.labels))
        builder = stack.enter_context(StageBuilder(space, options, device, partial(first_inputs, data)))
        first = builder.build(0)
        yield Built(chosen, builder, first, stack.enter_context(Halves(data, options, device)))


class Prepared(NamedTuple):
    """A search that can begin, or go on."""

    run: SearchRun
    engine: Engine[Architecture]
    data: Data


@contextmanager
def prepared(options: SearchOptions) -> Iterator[Prepared]:
    """Open a search: check its options, build its supernet, open its run folder and read its last checkpoint.

    Raises:
        ArchgradError: As `archgrad.search` does.
    """
    check_main_guard()
    method = options.chosen_method
    device = pick_device(own_device(options.device))

    with ExitStack() as stack:
        stack.enter_context(process_group())
        with raise_on_all_ranks(), local_rank_zero_first():
            data = as_data(options.data)
        chosen, builder, first, halves = stack.enter_context(built(options, data, device))
        config = {
            **(options.config or {}),  # first, so that what the caller says of space and data stands at the top
            **options.recipe(),
            "method": tree_of(method),
            **options.kept(SearchRunOptions),
            "device": str(device),
            **(options.config or {}),
        }
        run = SearchRun(
            builder,
            first,
            halves,
            options=options,
            chosen=chosen,
            samples=len(data.train_targets),
            settings=settings_of(options, config, data.name),
        )
        with run.explained():
            try_out(first.supernet, data, options, chosen.task)
        if other := other_network_warning(first.supernet, partial(first_inputs, data, first.supernet, samples=2)):
            warnings.warn(other, stacklevel=4)
        engine = stack.enter_context(opened(run, options, config=config, data=data, said=chosen.line))
        yield Prepared(run, engine, data)
