"""The runs that a study is made of, each a command in a folder of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from archgrad.options import names_of
from archgrad.runs.config import plain_config, write_config
from archgrad.study.study_file import Judge, Study
from archgrad.tasks import TaskOptions
from archgrad.typed_names import OF_LOADING, OWN_KINDS, is_own

__all__ = ["Candidate", "Job", "candidates_of", "jobs_for", "jobs_of", "judges_of", "retraining_folder"]

_OF_SPACE_AND_DATA = ("space", "space_options", "data", "data_options", *OF_LOADING, *names_of(TaskOptions))
"""With what is learnt, which is the same for every architecture, also for one of no search."""
_OF_A_RANDOM_SEARCH = (*_OF_SPACE_AND_DATA, "channels", "cells", "train_samples", "batch_size")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One command.

    Attributes:
        name: Unique in the study; also where the folder lies below that of the study.
        folder: Its run folder.
        command: "search", "retrain" or "random-search".
        options: As in a config.yaml of that command.
        typed: Further arguments.
        after: Name of the job that must be done before.
    """

    name: str
    folder: Path
    command: str
    options: Mapping[str, Any]
    typed: tuple[str, ...] = ()
    after: str | None = None

    def arguments(self) -> list[str]:
        """Return what is typed after `archgrad`: it begins the run, or goes on where it was left."""
        config = self.folder.parent / f"{self.folder.name}.yaml"
        config.parent.mkdir(parents=True, exist_ok=True)
        write_config(config, plain_config(self.options))
        # Code of somebody's own is run only where it is typed.
        own = [
            text for kind in OWN_KINDS if is_own(self.options.get(kind)) for text in (f"--{kind}", self.options[kind])
        ]
        run = ["--config", str(config), "--out", str(self.folder), "--resume", "auto"]
        return [self.command, *run, *self.typed, *own]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What is judged: an architecture, and where it comes from.

    Attributes:
        space: Name in the study.
        data: Name in the study.
        method: Name of a method or a baseline.
        seed: Of the search or the draw.
        run: Folder of its search; None where there was none.
        architecture: What `archgrad retrain --arch` takes.
    """

    space: str
    data: str
    method: str
    seed: int
    run: Path | None
    architecture: str

    @property
    def path(self) -> str:
        """Where its runs lie below a folder of the study."""
        return f"{self.space}/{self.data}/{self.method}/seed-{self.seed}"


def candidates_of(study: Study, folder: Path) -> list[Candidate]:
    """Return everything that is judged, method by method; what is drawn at random comes last.

    Args:
        study: What is compared.
        folder: Of the study.
    """
    found = []
    by_tables = study.cost_table is not None and any(judge.table is not None for judge in study.judges)
    searched = [entry.name for entry in study.methods]
    searched += ["random-search"] if study.random_search is not None else []
    for space, data in product(study.spaces, study.data):
        place = partial(Candidate, space=space.name, data=data.name)
        for method, seed in product(searched, study.seeds):
            run = folder / "searches" / space.name / data.name / method / f"seed-{seed}"
            found.append(place(method=method, seed=seed, run=run, architecture=str(run)))
        for (name, architecture), seed in product(study.architectures.items(), study.seeds):
            found.append(place(method=name, seed=seed, run=None, architecture=architecture))
        for name, budget in study.drawn.items():
            if not budget or by_tables:
                for seed in range(study.random):
                    found.append(place(method=name, seed=seed, run=None, architecture="random"))
    return found


def jobs_of(study: Study, folder: Path) -> list[Job]:
    """Return all runs of a study, in the order in which they begin: seed by seed, to be alike when broken off.

    Args:
        study: What is compared.
        folder: Of the study.
    """
    order = {seed: place for place, seed in enumerate(study.seeds)}
    candidates = sorted(candidates_of(study, folder), key=lambda candidate: order.get(candidate.seed, len(order)))
    jobs = [job for candidate in candidates for job in jobs_for(study, candidate, folder)]
    return sorted(jobs, key=lambda job: job.command == "retrain")


def jobs_for(study: Study, candidate: Candidate, folder: Path) -> list[Job]:
    """Return the runs that a candidate's scores come from, its search first; none where a table judges what is drawn.

    Args:
        study: What is compared.
        candidate: One of those.
        folder: Of the study.
    """
    search = [] if candidate.run is None else [_search(study, candidate, candidate.run)]
    judges = [judge for judge in judges_of(study, candidate) if judge.retrain is not None]
    return [*search, *(_retraining(study, judge, candidate, folder) for judge in judges)]


def judges_of(study: Study, candidate: Candidate) -> list[Judge]:
    """Return the judges that score a candidate.

    A table says the same of a given architecture for every seed, and so scores it with the first seed alone. Random
    architectures that keep a budget are drawn from a table, and scored by tables alone.

    Args:
        study: What is compared.
        candidate: One of those.
    """
    given = candidate.run is None and candidate.method not in study.drawn
    again = given and candidate.seed != study.seeds[0]
    within = bool(study.drawn.get(candidate.method))
    return [judge for judge in study.judges if not (again if judge.table is not None else within)]


def retraining_folder(folder: Path, judge: Judge, candidate: Candidate) -> Path:
    """Return where the retraining of a candidate lies in the folder of a study."""
    return folder / "retrainings" / judge.name / candidate.path


def _shared(study: Study, candidate: Candidate) -> dict[str, Any]:
    """The options of all searches in a candidate's space and on its data."""
    space = next(entry for entry in study.spaces if entry.name == candidate.space)
    data = next(entry for entry in study.data if entry.name == candidate.data)
    return {**study.search, **space.options, **data.options, **study.fold_of(candidate.seed)}


def _search(study: Study, candidate: Candidate, run: Path) -> Job:
    shared, name = _shared(study, candidate), f"searches/{candidate.path}"
    if candidate.method != "random-search":
        method = next(entry for entry in study.methods if entry.name == candidate.method)
        table = {"cost_table": study.cost_table} if study.cost_table and study.budget_of(candidate.method) else {}
        options = {**shared, **table, **method.options, "seed": candidate.seed}
        return Job(name=name, folder=run, command="search", options=options)
    first = replace(candidate, method=study.methods[0].name)
    return Job(
        name=name,
        folder=run,
        command="random-search",
        options={
            **{key: value for key, value in shared.items() if key in _OF_A_RANDOM_SEARCH},
            **(study.random_search or {}),
            "seed": candidate.seed,
        },
        typed=("--cost-of", str(run.parents[1] / first.method / run.name)),
        after=f"searches/{first.path}",
    )


def _retraining(study: Study, judge: Judge, candidate: Candidate, folder: Path) -> Job:
    inherited = {key: value for key, value in _shared(study, candidate).items() if key in _OF_SPACE_AND_DATA}
    return Job(
        name=f"retrainings/{judge.name}/{candidate.path}",
        folder=retraining_folder(folder, judge, candidate),
        command="retrain",
        options={**inherited, **(judge.retrain or {}), "seed": candidate.seed},
        typed=("--arch", candidate.architecture),
        after=None if candidate.run is None else f"searches/{candidate.path}",
    )
