"""A study as one call: what is compared in, every score and a report out."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import KW_ONLY, asdict, dataclass
from pathlib import Path

from archgrad.architecture import Architecture
from archgrad.discretize import random_architecture
from archgrad.errors import OptionError, RunError
from archgrad.files import write_text
from archgrad.named_space import SPACES
from archgrad.options import Options, takes
from archgrad.runs import Interrupted
from archgrad.runs.config import plain_config, read_config, write_config
from archgrad.sizes import check_whole
from archgrad.study.budgets import fronts_of, limits_of, random_within
from archgrad.study.continued import goes_on_from, still_to_run
from archgrad.study.jobs import Candidate, candidates_of, jobs_for
from archgrad.study.judging import Point, Result, judged
from archgrad.study.kept import kept_of, load_kept, to_csv
from archgrad.study.runner import Outcome, Pool, Processes, done_before, run_jobs
from archgrad.study.study_file import Study, load_study
from archgrad.study.study_progress import StudyProgress
from archgrad.study.study_report import write_study_report
from archgrad.study.summary import Row, rows_of

__all__ = ["StudyOptions", "StudyResult", "study"]


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """What a study came to.

    Attributes:
        rows: One for each method and judge: mean, spread and interval over seeds.
        results: Every score.
        failed: Name of a run that failed -> the last lines that it wrote.
        report: The HTML file.
    """

    rows: Sequence[Row]
    results: Sequence[Result]
    failed: Mapping[str, str]
    report: Path


@dataclass(frozen=True)
class StudyOptions(Options):
    """What `archgrad.study` takes.

    Raises:
        OptionError: A value is outside its range.
    """

    plan: Study | str | os.PathLike[str]
    """A `Study`, or the YAML file of one (see `archgrad.study.load_study`)."""
    out: str | os.PathLike[str]
    """Folder of the study, new or of the same study."""
    _: KW_ONLY
    jobs: int = 1
    """How many processes run at the same time, at least 1."""
    threads: int | None = None
    """Of each process, at least 1. By default the processors of this machine, shared out."""
    slurm: Mapping[str, object] | None = None
    """Run each process as a job of SLURM, with these parameters of `submitit.AutoExecutor`, such as
    {"slurm_partition": "gpu", "timeout_min": 240}; needs `pip install archgrad[slurm]`."""
    keep: str | os.PathLike[str] | None = None
    """CSV file that is written as well, also where the study is stopped: one row a score, with all that tables and
    pictures are made of, and commit, versions and hardware of each run; small enough for a repository."""
    continue_from: str | os.PathLike[str] | None = None
    """CSV file that `keep` wrote, of the same study elsewhere or before: what it holds is not run again. A score of
    other settings is refused."""
    quiet: bool = False
    """Show no progress."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.plan, Study | str | os.PathLike):
            raise OptionError(
                f"plan must be a Study or the path of a YAML file, but got {type(self.plan).__name__}. Write the "
                f"study to a file."
            )
        check_whole("jobs", self.jobs, least=1)
        if self.threads is not None:
            check_whole("threads", self.threads, least=1)


@takes(StudyOptions)
def study(options: StudyOptions) -> StudyResult:
    """Run all searches and retrainings of a study that are not done yet, and report on every one.

    Each is an ordinary run folder below `out`, made by a process of its own. Killed and called again, the study goes
    on: what is done is kept, what was interrupted is resumed, what failed is tried once more.

    Returns:
        Every score, and where the report lies.

    Raises:
        OptionError: An option is outside its range, or the study says something that there is not.
        RunError: The folder holds something else.
        DataError: What is kept cannot be read.
        Interrupted: SIGTERM, SIGINT or SIGHUP came; what ran has saved its state.
    """
    plan = options.plan if isinstance(options.plan, Study) else load_study(options.plan)
    folder = Path(options.out)
    _keep(plan, folder)
    candidates = candidates_of(plan, folder)
    kept = goes_on_from(plan, candidates, [] if options.continue_from is None else load_kept(options.continue_from))
    drawn, fronts = _drawn(plan), fronts_of(plan)
    threads = options.threads or max(1, (os.cpu_count() or 1) // options.jobs)
    earlier = list(itertools.chain(*kept.values()))

    def judge(outcomes: Mapping[str, Outcome]) -> tuple[list[Result], list[Point], dict[str, Outcome]]:
        """Judge what has ended, and keep it; what cannot be judged has failed."""
        ended = [one for one in candidates if one not in kept and _has_ended(plan, one, folder)]
        results, points, unknown = judged(plan, ended, folder, drawn)
        ends = {**outcomes, **{name: _not_judged(outcomes.get(name), reason) for name, reason in unknown.items()}}
        if options.keep is not None:
            rows = kept_of(plan, ended, results, points, ends, folder, fronts)
            write_text(Path(options.keep), to_csv([*earlier, *rows]))
        return results, points, ends

    try:
        with StudyProgress(quiet=options.quiet) as progress, _pool(options.slurm, threads, folder) as pool:
            todo = still_to_run(plan, kept, folder)
            progress.begin(todo)
            outcomes = run_jobs(
                todo, pool, folder=folder, workers=options.jobs, on_start=progress.started, on_end=progress.ended
            )
    except Interrupted:
        if options.keep is not None:
            judge({})
        raise
    results, points, ends = judge(outcomes)
    results += [row.result for row in earlier]
    points += [point for row in earlier for point in row.points]
    report = write_study_report(plan, results, points, ends, folder, fronts)
    failed = {name: outcome.reason for name, outcome in ends.items() if not outcome.done}
    return StudyResult(rows=rows_of(results), results=results, failed=failed, report=report)


def _not_judged(outcome: Outcome | None, reason: str) -> Outcome:
    """How a job ended whose architecture no judge knows."""
    return Outcome(done=False, seconds=0.0 if outcome is None else outcome.seconds, reason=reason)


def _has_ended(plan: Study, candidate: Candidate, folder: Path) -> bool:
    """Whether there is an architecture to judge: the search of a candidate is done, or none is needed."""
    return candidate.run is None or done_before(jobs_for(plan, candidate, folder)[0], folder) is not None


def _pool(slurm: Mapping[str, object] | None, threads: int, folder: Path) -> Pool:
    if slurm is None:
        return Processes(threads)
    from archgrad.study.slurm import Slurm

    return Slurm(folder / "slurm", slurm)


def _keep(plan: Study, folder: Path) -> None:
    """Write the study's file, or compare with the one that is there."""
    values = asdict(plan)
    if plan.cost_table is None:
        del values["cost_table"]  # which files of before do not have
    content = {"command": "study", **plain_config(values)}
    file = folder / "study.yaml"
    if file.is_file():
        if read_config(file) != plain_config(content):
            raise RunError(f"'{folder}' holds another study. Name another folder, or put its settings back.")
        return
    with suppress(FileNotFoundError):
        if any(folder.iterdir()):
            raise RunError(f"'{folder}' holds something that is no study. Name a new or empty folder.")
    folder.mkdir(parents=True, exist_ok=True)
    write_config(file, content)


def _drawn(plan: Study) -> dict[tuple[str, str, int], Architecture]:
    """The random architectures of the spaces that a table judges: of all, and of those that keep each budget."""
    drawn: dict[tuple[str, str, int], Architecture] = {}
    if all(judge.table is None for judge in plan.judges):
        return drawn
    limits = limits_of(plan)
    for entry in plan.spaces:
        name = entry.options.get("space")
        if name not in SPACES:
            raise OptionError(f"A table knows the networks of archgrad's own spaces, but {entry.name} is {name!r}.")
        space = SPACES[name]()
        for baseline, budget in plan.drawn.items():
            if not budget:
                found = [random_architecture(space, seed=seed, name=name) for seed in range(plan.random)]
            elif budget in limits:
                found = random_within(name, limits[budget], count=plan.random, seed=0)
            else:
                continue
            drawn |= {(entry.name, baseline, seed): each for seed, each in enumerate(found)}
    return drawn
