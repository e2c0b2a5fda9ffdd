"""`archgrad study --check`: what a study will run and how long it will take, before it is begun."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch.utils.data import Subset

from archgrad.cli import data as data_options
from archgrad.cli import random_search_command, retrain_command, search_command
from archgrad.cli.common_options import parse
from archgrad.cli.named_architectures import open_architecture
from archgrad.cli.parser import Parser
from archgrad.data import Data
from archgrad.data.samples import as_samples, size_of
from archgrad.engine import EpochState
from archgrad.errors import ArchgradError, OptionError
from archgrad.methods.tree import KINDS
from archgrad.nasbench import load_table
from archgrad.retrain import retrain
from archgrad.search.estimate import estimated_seconds
from archgrad.search.search_options import SearchOptions
from archgrad.study import Study
from archgrad.study.columns import columns_of
from archgrad.study.continued import still_to_run
from archgrad.study.jobs import Candidate, Job, jobs_of

__all__ = ["Part", "check_judges", "check_options", "checked", "options_of", "parts_of", "to_text"]

_STEPS = 4
_TEST_BATCH = 1 / 3
"""What a batch of the test set costs against a training step: the forward pass alone."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Runs of a study that differ in nothing but seed and architecture.

    Attributes:
        name: Where they lie in the study, without the seed.
        runs: Their number.
        seconds: That one of them takes.
    """

    name: str
    runs: int
    seconds: float


def checked(study: Study, kept: Collection[Candidate] = ()) -> Iterator[Part]:
    """Read all options of a study, and time a few steps of every search and retraining that differs from the others.

    Nothing is written but to a temporary folder. A random search takes as long as the first method's search, on the
    same data and in the same space.

    Args:
        study: What is to be run.
        kept: Candidates of which scores are kept, so that they are not run again.

    Yields:
        Each part, once it was timed.

    Raises:
        ArchgradError: A run could not begin, or a table or an architecture is not there.
    """
    check_judges(study)
    with TemporaryDirectory() as folder:
        searches: dict[str, float] = {}
        parts = parts_of(jobs_of(study, Path(folder)))
        options = {name: options_of(_example(alike)) for name, alike in parts.items()}
        todo = {job.name for job in still_to_run(study, kept, Path(folder))}
        for name, alike in parts.items():
            runs, first = sum(job.name in todo for job in alike), alike[0]
            if not runs:
                continue
            if first.command == "search":
                seconds = searches[name] = _of_a_search(options[name])
            elif first.command == "random-search":
                seconds = searches[_without_seed(str(first.after))]
            else:
                seconds = _of_a_retraining(options[name])
            yield Part(name=name, runs=runs, seconds=seconds)


def check_options(study: Study) -> None:
    """Read all options of a study as its runs will; nothing is run, and nothing written but to a temporary folder.

    Raises:
        OptionError: A run would refuse them.
    """
    with TemporaryDirectory() as folder:
        for alike in parts_of(jobs_of(study, Path(folder))).values():
            options_of(_example(alike))


def _example(alike: Sequence[Job]) -> Job:
    """Return the job of a part that stands for all: of retrainings one that needs no search before."""
    return next((job for job in alike if "random" in job.typed), alike[0])


def parts_of(jobs: Sequence[Job]) -> dict[str, list[Job]]:
    """Return the jobs of each part by its name; retrainings in one space and on one data set are alike."""
    found: dict[str, list[Job]] = {}
    for job in jobs:
        name = _without_seed(job.name)
        found.setdefault(_without_seed(name) if job.command == "retrain" else name, []).append(job)
    return found


def options_of(job: Job) -> dict[str, Any]:
    """Return the values of all options of a job as its command would read them.

    Raises:
        OptionError: The command would refuse them.
    """
    command, *typed = job.arguments()
    parts = tuple(KINDS) if command == "search" else ()
    try:
        return parse(_parser(command), typed, command=command, parts=parts)
    except ArchgradError as error:
        said = str(error).replace(str(job.folder), job.name)  # which lies in the study's folder
        raise OptionError(f"The study has options with which {job.name} cannot run: {said}") from None


def _parser(command: str) -> Parser:
    return {
        "search": search_command.make_parser,
        "retrain": retrain_command.make_parser,
        "random-search": random_search_command.make_parser,
    }[command]()


def to_text(study: Study, parts: Sequence[Part]) -> str:
    """Return a table of the parts, with the grid above and the sum below."""
    axes = (("methods", study.methods), ("spaces", study.spaces), ("data", study.data), ("judges", study.judges))
    lines = [f"{axis:12}{', '.join(entry.name for entry in entries)}" for axis, entries in axes]
    lines += [f"{'seeds':12}{', '.join(map(str, study.seeds))}", ""]
    width = max((len(part.name) for part in parts), default=0)
    lines += [f"{part.name:{width}}  {part.runs:4} x {part.seconds / 60:8.2f} min" for part in parts]
    runs = sum(part.runs for part in parts)
    hours = sum(part.runs * part.seconds for part in parts) / 3600
    return "\n".join([*lines, "", f"{runs} runs, about {hours:.2f} hours together on this machine, one at a time."])


def check_judges(study: Study) -> None:
    """Check that tables, their columns and the architectures beside the methods are there.

    Raises:
        ArchgradError: One is not.
    """
    for judge in study.judges:
        if judge.table is not None:
            columns_of(judge, load_table(judge.table))
    for architecture in study.architectures.values():
        open_architecture(architecture)


def _without_seed(name: str) -> str:
    return name.rpartition("/")[0]


def _of_a_search(values: dict[str, Any]) -> float:
    return estimated_seconds(SearchOptions(**search_command.arguments_of(_parser("search"), values)))


def _of_a_retraining(values: dict[str, Any]) -> float:
    values["data"] = data_options.settled_name(values["data"])
    given = retrain_command.arguments_of(_parser("retrain"), values)
    data, batch = given["data"], given["batch_size"]
    ends: list[float] = []

    def second(state: EpochState) -> bool:
        ends.append(time.perf_counter())
        return len(ends) == 2

    few = {"data": _few(data, batch), "epochs": max(given["epochs"], 2), "quiet": True, "on_epoch": second}
    retrain(**{**given, **few})
    tests = 0 if data.test is None else -(-size_of(data.test) // batch)
    few_tests = min(tests, 1)
    steps = min(_STEPS, -(-size_of(data.train) // batch))
    step = (ends[1] - ends[0]) / (steps + _TEST_BATCH * few_tests)
    return given["epochs"] * step * (-(-size_of(data.train) // batch) + _TEST_BATCH * tests)


def _few(data: Data, batch: int) -> Data:
    """Return a few batches to train on, and one to test on."""
    train = as_samples(Subset(data.train, list(range(min(_STEPS * batch, size_of(data.train))))))
    test = data.test
    if test is not None:
        test = as_samples(Subset(test, list(range(min(batch, size_of(test))))))
    return replace(data, train=train, test=test)
