"""How long a search will take, from a few of its steps."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

from archgrad.data import as_data
from archgrad.runs import Progress, pick_device
from archgrad.search.prepared import built
from archgrad.search.search_options import SearchOptions
from archgrad.search.search_run import SearchRun

__all__ = ["estimated_seconds"]

_STEPS = 3


def estimated_seconds(options: SearchOptions) -> float:
    """Return the seconds that a search of these options takes by the time of a few steps of each of its stages.

    Nothing is written. What is done once an epoch, such as the measurements of a stopping rule, is not counted, and a
    search that stops early is counted as if it did not.

    Raises:
        ArchgradError: The search could not begin.
    """
    method, device = options.chosen_method, pick_device(options.device)
    data = as_data(options.data)
    with built(options, data, device) as (chosen, builder, first, halves):
        samples = len(data.train_targets)
        run = SearchRun(builder, first, halves, options=options, chosen=chosen, samples=samples, settings={})
        run.progress = Progress("search", (), epochs=run.epochs, steps=1, device=device, quiet=True)
        further = method.selection.further_epochs(first.supernet)
        seconds = step = 0.0
        for epoch, epochs in _alike(options):
            run.epoch = epoch
            step = _step_seconds(run)
            seconds += epochs * run.batches_per_epoch * step
        seconds += further * run.batches_per_epoch * step
    return seconds * (1 if method.ensemble is None else method.ensemble.members)


def _alike(options: SearchOptions) -> Iterator[tuple[int, int]]:
    """Yield the first of epochs whose steps cost the same, 0-based, and their number."""
    method, total = options.chosen_method, options.total_epochs
    last = total if method.stopping is None else method.stopping.longest(total)
    begin = 0
    for stage in method.stages:
        end = total if stage.epochs is None else begin + stage.epochs
        for first, after in ((begin, begin + stage.alphas_start_epoch), (begin + stage.alphas_start_epoch, end)):
            if first < min(after, last):
                yield first, min(after, last) - first
        begin = end


def _step_seconds(run: SearchRun) -> float:
    """Return the median time of a step, the first ones aside."""
    run.step = 0
    run.start_epoch()
    batches = zip(*(stream.batches(run.batches_done) for stream in run.streams), strict=True)
    taken = []
    for step in range(min(_STEPS + 1, run.batches_per_epoch)):
        run.step = step
        began = time.perf_counter()
        run.take_step(next(batches))
        run.settle()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:] or taken)
