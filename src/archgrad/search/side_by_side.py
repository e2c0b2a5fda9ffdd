"""The members of an ensemble as runs of their own, and what they come to together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from archgrad.architecture import Architecture
from archgrad.errors import OptionError, RunError
from archgrad.json_text import thaw
from archgrad.runs.metrics import MetricsFile
from archgrad.search.epoch import log_alphas
from archgrad.search.members import member_seed
from archgrad.search.prepared import prepared
from archgrad.search.search_api import SearchResult
from archgrad.search.search_options import SearchOptions
from archgrad.search.search_run import SearchRun
from archgrad.search.terms import say_result
from archgrad.search.within_budget import without_budgets

__all__ = ["FOLDER", "MemberRun", "RunMembers", "search_side_by_side"]

FOLDER = "members"
"""Where the runs of the members lie in the run folder, one a number."""


@dataclass(frozen=True, kw_only=True)
class MemberRun:
    """The run of one member: the same search without the ensemble, with the member's seed.

    Attributes:
        number: From 0.
        seed: Of its search.
        folder: Its run folder, new or of a run that goes on.
    """

    number: int
    seed: int
    folder: Path


RunMembers = Callable[[Sequence[MemberRun]], None]
"""Runs members to their end, those that have begun from where they are; raises where one cannot be."""


def search_side_by_side(options: SearchOptions, run_members: RunMembers) -> SearchResult:
    """Search with an ensemble whose members are runs of their own, and so may run at the same time.

    Metrics, architectures and result are those of `archgrad.search`, to the bit where a member computes with as many
    threads. The run folder gets them when all members have ended; the members' own folders lie in `members/`, and hold
    the checkpoints.

    Args:
        options: Of the whole search, with a run folder.
        run_members: Runs the members.

    Returns:
        As `archgrad.search`, but for the supernet, which is at its beginning.

    Raises:
        OptionError: The method has no ensemble of several members, or an option is refused.
        RunError: The run folder holds a search whose members run one after the other, or cannot be used.
    """
    ensemble = options.chosen_method.ensemble
    if ensemble is None or ensemble.members < 2:
        raise OptionError(
            "Members run side by side where there are several, but the method has no ensemble of at least two. Leave "
            "out --jobs, or give --ensemble.members."
        )
    if options.run_dir is None:
        raise OptionError("Members that run side by side need a run folder. Give run_dir.")
    folder = Path(options.run_dir)
    with prepared(replace(options, quiet=True)) as (run, _, _):
        if run.history or run.step:
            raise RunError(
                f"The search in '{folder}' runs its members one after the other. Go on with it without --jobs, or "
                f"begin another."
            )
        runs = [
            MemberRun(number=k, seed=member_seed(options.seed, k), folder=folder / FOLDER / str(k))
            for k in range(ensemble.members)
        ]
        run_members(runs)
        architecture = _gathered(run, [member.folder for member in runs])
    return SearchResult(architecture, run.supernet, run.history, folder)


def _gathered(run: SearchRun, folders: Sequence[Path]) -> Architecture:
    """Write what the members came to, epoch by epoch, as a search writes it that runs one after the other."""
    members, folder = run.members, run.folder
    assert folder is not None
    whole = ended = None
    for member, path in enumerate(folders):
        if ended is not None:
            members.next(ended, len(run.history))
        own = None
        files = [MetricsFile(path / name).rows() for name in ("metrics.csv", "timings.csv")]
        for row, timing in zip(*files, strict=True):
            epoch = len(run.history)
            own = _within(run, Architecture.load(path / "checkpoints" / f"epoch_{row['epoch']}.json"), epoch)
            whole = run.together(own)
            members.remember(own)
            row = {"epoch": epoch, "member": member, **{name: row[name] for name in row if name != "epoch"}}
            run.history.append(row)
            folder.metrics.append(row)
            folder.timings.append({**timing, "epoch": epoch})
            folder.save_architecture(whole, epoch)
            run.loggers.log_metrics({**row, **timing, "epoch": epoch}, epoch)
            if run.loggers:
                log_alphas(run.loggers, whole, epoch)
        assert own is not None  # a run that has ended has at least one epoch
        stop = members.stop(run.history)
        ended = own if stop is None else members.remembered(stop.epoch)
    assert ended is not None
    assert whole is not None
    found = whole if members.stop(run.history) is None else run.together(ended)
    if found is not whole:
        folder.save_architecture(found)
    say_result(found, run.regularizers, run.progress.message)
    return found


def _within(run: SearchRun, own: Architecture, epoch: int) -> Architecture:
    """Return a member's architecture with the provenance that it has in the whole search."""
    provenance: dict[str, Any] = {**thaw(own.provenance), "epoch": epoch}
    if "search" in provenance:
        provenance["search"] = {**run.settings, "weights": provenance["search"]["weights"]}
    return without_budgets(replace(own, provenance=provenance))
