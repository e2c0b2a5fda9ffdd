"""The runs that a study is made of, each a command in a folder of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from archgrad.runs.config import plain_config, write_config
from archgrad.study.study_file import Entry, Judge, Study

__all__ = ["Candidate", "Job", "candidates_of", "jobs_of"]

OF_BOTH = ("space", "data", "image_size", "channels", "cells", "space_options")
_OF_THE_NETWORK = ("channels", "cells")


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
        if (self.folder / "config.yaml").is_file():
            return [self.command, "--resume", str(self.folder), *self._own_space()]
        config = self.folder.parent / f"{self.folder.name}.yaml"
        config.parent.mkdir(parents=True, exist_ok=True)
        write_config(config, plain_config(self.options))
        typed = (*self.typed, *self._own_space())
        return [self.command, "--config", str(config), "--out", str(self.folder), *typed]

    def _own_space(self) -> list[str]:
        """A space of somebody's own is run as Python, and so is typed."""
        space = self.options.get("space")
        return ["--space", space] if isinstance(space, str) and ":" in space else []


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
    searched = [entry.name for entry in study.methods]
    searched += ["random-search"] if study.random_search is not None else []
    for space, data in product(study.spaces, study.data):
        place = partial(Candidate, space=space.name, data=data.name)
        for method, seed in product(searched, study.seeds):
            run = folder / "searches" / space.name / data.name / method / f"seed-{seed}"
            found.append(place(method=method, seed=seed, run=run, architecture=str(run)))
        for (name, architecture), seed in product(study.architectures.items(), study.seeds):
            found.append(place(method=name, seed=seed, run=None, architecture=architecture))
        for seed in range(study.random):
            found.append(place(method="random", seed=seed, run=None, architecture="random"))
    return found


def jobs_of(study: Study, folder: Path) -> list[Job]:
    """Return all runs of a study, in the order in which they begin.

    Args:
        study: What is compared.
        folder: Of the study.
    """
    candidates = candidates_of(study, folder)
    jobs = [job for candidate in candidates for job in _search(study, candidate)]
    for judge in study.judges:
        if judge.retrain is not None:
            jobs += [_retraining(study, judge, candidate, folder) for candidate in candidates]
    return jobs


def _entries(study: Study, candidate: Candidate) -> tuple[Entry, Entry]:
    space = next(entry for entry in study.spaces if entry.name == candidate.space)
    data = next(entry for entry in study.data if entry.name == candidate.data)
    return space, data


def _search(study: Study, candidate: Candidate) -> Iterator[Job]:
    if candidate.run is None:
        return
    space, data = _entries(study, candidate)
    shared = {**study.search, **space.options, **data.options}
    name = f"searches/{candidate.path}"
    if candidate.method != "random-search":
        method = next(entry for entry in study.methods if entry.name == candidate.method)
        options = {**shared, **method.options, "seed": candidate.seed}
        yield Job(name=name, folder=candidate.run, command="search", options=options)
        return
    first = f"{candidate.space}/{candidate.data}/{study.methods[0].name}/seed-{candidate.seed}"
    yield Job(
        name=name,
        folder=candidate.run,
        command="random-search",
        options={
            **{key: value for key, value in shared.items() if key in (*OF_BOTH, "train_samples", "batch_size")},
            **(study.random_search or {}),
            "seed": candidate.seed,
        },
        typed=("--cost-of", str(candidate.run.parents[1] / study.methods[0].name / candidate.run.name)),
        after=f"searches/{first}",
    )


def _retraining(study: Study, judge: Judge, candidate: Candidate, folder: Path) -> Job:
    space, data = _entries(study, candidate)
    searched = {**study.search, **space.options, **data.options}
    inherited = {key: value for key, value in searched.items() if key in OF_BOTH and key not in _OF_THE_NETWORK}
    return Job(
        name=f"retrainings/{judge.name}/{candidate.path}",
        folder=folder / "retrainings" / judge.name / candidate.path,
        command="retrain",
        options={**inherited, **(judge.retrain or {}), "seed": candidate.seed},
        typed=("--arch", candidate.architecture),
        after=None if candidate.run is None else f"searches/{candidate.path}",
    )
