"""The members of an ensemble as processes: each an `archgrad search` with a run folder of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from archgrad.cli.parser import dashed
from archgrad.distributed import world_size
from archgrad.errors import OptionError, RunError
from archgrad.methods.tree import KINDS
from archgrad.runs import read_config
from archgrad.search.side_by_side import FOLDER, MemberRun, RunMembers
from archgrad.sizes import check_whole
from archgrad.study.jobs import Job
from archgrad.study.runner import Processes, run_jobs
from archgrad.study.study_progress import StudyProgress
from archgrad.typed_names import is_own

__all__ = ["check_alone", "jobs_of_members", "members_as_processes"]

_OF_THE_WHOLE = ("command", "wandb", "mlflow")
"""What the search with all members does, and no member by itself."""


def check_alone(values: Mapping[str, Any]) -> None:
    """Check that the command can run members as processes.

    Args:
        values: Of the command line.

    Raises:
        OptionError: It cannot.
    """
    if values["jobs"] is not None:
        check_whole("jobs", values["jobs"], least=1)
    if world_size() > 1:
        raise OptionError("--jobs runs processes of its own, so it does not go with torchrun. Leave one of them out.")
    if values["max_minutes"] is not None:
        raise OptionError("--max-minutes is for one process, so it does not go with --jobs. Leave one of them out.")


def members_as_processes(values: Mapping[str, Any], out: Path) -> RunMembers:
    """Return what runs the members of a search, several at the same time.

    Args:
        values: Of the command line.
        out: Run folder of the whole search.
    """

    def run(members: Sequence[MemberRun]) -> None:
        jobs, workers = jobs_of_members(members, out), min(values["jobs"] or 1, len(members))
        threads = max(1, torch.get_num_threads() // workers)
        with StudyProgress(quiet=values["quiet"]) as progress, Processes(threads) as pool:
            progress.begin(jobs)
            outcomes = run_jobs(
                jobs, pool, folder=out / FOLDER, workers=workers, on_start=progress.started, on_end=progress.ended
            )
        for name, outcome in outcomes.items():
            if not outcome.done:
                raise RunError(
                    f"Member {name} of the ensemble failed: {outcome.reason}. All it said is in "
                    f"'{out / FOLDER / 'logs'}'. Go on with the whole search by --resume '{out}'."
                )

    return run


def jobs_of_members(members: Sequence[MemberRun], out: Path) -> list[Job]:
    """Return the commands that run the members.

    Args:
        members: In order.
        out: Run folder of the whole search; its config.yaml says what a member does.
    """
    config = read_config(out / "config.yaml")
    kept = {name: value for name, value in config.items() if name not in _OF_THE_WHOLE}
    method = {**config["method"], "ensemble": None}
    return [
        Job(
            name=str(member.number),
            folder=member.folder,
            command="search",
            options={**kept, "method": method, "seed": member.seed},
            typed=tuple(_own_parts(method)),
        )
        for member in members
    ]


def _own_parts(method: Mapping[str, Any]) -> Iterator[str]:
    """The parts of somebody's own, which are run only where they are typed, as options."""
    for kind in KINDS:
        parts = method.get(kind) or []
        names = [str(part["name"]) for part in (parts if isinstance(parts, list) else [parts])]
        if any(map(is_own, names)):
            yield from (dashed(f"--{kind}"), ",".join(names))
