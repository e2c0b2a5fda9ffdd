"""A study that goes on from what is kept of it, where its run folders are gone: on another machine, in parts, later."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from archgrad.errors import OptionError
from archgrad.study.jobs import Candidate, Job, jobs_for, jobs_of, judges_of
from archgrad.study.kept import Kept
from archgrad.study.settings_hash import settings_hash
from archgrad.study.study_file import Study

__all__ = ["goes_on_from", "still_to_run"]


def goes_on_from(study: Study, candidates: Sequence[Candidate], rows: Sequence[Kept]) -> dict[Candidate, list[Kept]]:
    """Return what is kept of a study's candidates, of those of which every judge's score is kept.

    Args:
        study: What is compared.
        candidates: What is judged.
        rows: What `--keep` wrote; of runs that failed, of fronts, and of what this study does not compare, nothing is
            taken.

    Raises:
        OptionError: A score comes from other settings, or is there twice.
    """
    places: dict[tuple[str, str, str, int | None], list[Kept]] = {}
    for row in rows:
        if row.score is not None:
            places.setdefault((row.space, row.data, row.method, row.seed), []).append(row)
    found = {}
    for one in candidates:
        judges = {judge.name for judge in judges_of(study, one)}
        rows_of_it = places.get((one.space, one.data, one.method, one.seed), [])
        of_it = [row for row in rows_of_it if row.judge.partition(" ")[0] in judges]
        if judges <= {row.judge.partition(" ")[0] for row in of_it}:
            settings = settings_hash(study, one)
            if any(row.settings != settings for row in of_it):
                raise OptionError(
                    f"What is kept of {one.path} comes from other settings than the study's. Name the file that was "
                    f"kept of this study, or leave continue_from out."
                )
            if len(of_it) > len({row.judge for row in of_it}):
                raise OptionError(f"A score of {one.path} is kept more than once. Leave one of them in the file.")
            found[one] = of_it
    return found


def still_to_run(study: Study, kept: Iterable[Candidate], folder: Path) -> list[Job]:
    """Return the jobs of candidates of which nothing is kept, and those that they wait for.

    Args:
        study: What is compared.
        kept: Candidates that need not run.
        folder: Of the study.
    """
    jobs = jobs_of(study, folder)
    done = {job.name for one in kept for job in jobs_for(study, one, folder)}
    awaited = {job.after for job in jobs if job.name not in done}
    return [job for job in jobs if job.name not in done or job.name in awaited]
