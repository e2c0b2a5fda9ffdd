"""The scores of a study's architectures, by a table or by their retrainings."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from archgrad.architecture import Architecture
from archgrad.errors import ArchgradError, ArchitectureError
from archgrad.nasbench import Table, format_arch, load_table, parse_arch, query
from archgrad.report.read import Run, read_run
from archgrad.study.budgets import Limits, limits_of
from archgrad.study.columns import columns_of, is_cost, place_of_column
from archgrad.study.jobs import Candidate, judges_of, retraining_folder
from archgrad.study.place import Place, measured_by
from archgrad.study.study_file import Judge, Study, name_within
from archgrad.tasks.base_task import BestIs

__all__ = ["Point", "Result", "judged"]

_ALL = 10_000
"""Most epochs of a search that are looked up."""


@dataclass(frozen=True, kw_only=True)
class Result(Place):
    """What one architecture reached.

    Attributes:
        method: Name of a method or a baseline.
        seed: Of the search or the draw.
        score: In the place's unit.
        search_seconds: That the search took; None where there was none.
        selection_seconds: Of further epochs, in which the search's selection decides; None where there was no search.
        train_seconds: That the retraining took; None for a table.
        parameters: Of the retrained network; None for a table.
        multiply_adds: Of the retrained network, for one input; None for a table, and where they cannot be counted.
        choices: The architecture's decisions as JSON.
        budget: That the search was given, such as "parameters<=20k"; empty for none.
        over: By how much the network is above it, as a share of it, at most 0 where it keeps it; None where no table
            tells.
        attainable: Best score of all networks of a table that keep it; None where no table tells, and for costs.
    """

    method: str
    seed: int
    score: float
    search_seconds: float | None
    selection_seconds: float | None
    train_seconds: float | None
    parameters: int | None
    multiply_adds: int | None
    choices: str
    budget: str = ""
    over: float | None = None
    attainable: float | None = None

    @property
    def drawn(self) -> bool:
        """Whether the architecture is a random one, of all or of those that keep the budget."""
        return self.method == name_within("random", self.budget)


@dataclass(frozen=True, kw_only=True)
class Point(Place):
    """What the architecture after one epoch of a search reached.

    Attributes:
        method: Name in the study.
        seed: Of the search.
        epoch: 0-based; of a random search the candidate.
        seconds: From the beginning of the search.
        score: In the place's unit.
    """

    method: str
    seed: int
    epoch: int
    seconds: float
    score: float


def judged(
    study: Study, candidates: Sequence[Candidate], folder: Path, drawn: Mapping[tuple[str, str, int], Architecture]
) -> tuple[list[Result], list[Point], dict[str, str]]:
    """Return the score of each candidate by each judge, by tables that of every epoch, and what a table does not have.

    A candidate whose search or retraining is not finished is left out. What a table does not have is by the run's name,
    with the reason.

    Args:
        study: What is compared.
        candidates: What is judged.
        folder: Of the study.
        drawn: (space, baseline, seed) -> random architecture, where a table judges them.
    """
    results: list[Result] = []
    points: list[Point] = []
    unknown: dict[str, str] = {}
    frames = 2 if all(judge.table is None for judge in study.judges) else _ALL  # tables alone look at every epoch
    runs = {candidate: _read(candidate.run, frames) for candidate in candidates}
    for judge in study.judges:
        if judge.table is None:
            for candidate in candidates:
                results += _retrained(study, judge, candidate, folder, runs[candidate])
            continue
        table = load_table(judge.table)
        told = _Told(study, judge, table)
        for candidate in candidates:
            if judge not in judges_of(study, candidate):
                continue
            run = runs[candidate]
            architecture = _architecture(study, candidate, run, drawn)
            try:
                found = [] if architecture is None else [*_looked_up(told, candidate, architecture, run)]
                course = [*_curve(judge, table, candidate, run)]
            except ArchitectureError as error:  # one does not stop the others
                name = candidate.method if candidate.run is None else candidate.run.relative_to(folder).as_posix()
                unknown[name] = str(error)
                continue
            results += found
            points += course
    return results, points, unknown


def _read(folder: Path | None, frames: int = 2) -> Run | None:
    if folder is None or not folder.is_dir():
        return None
    try:
        return read_run(folder, max_frames=frames)
    except ArchgradError:
        return None


def _architecture(
    study: Study, candidate: Candidate, run: Run | None, drawn: Mapping[tuple[str, str, int], Architecture]
) -> Architecture | None:
    if candidate.run is not None:
        return None if run is None else run.architecture
    if candidate.method in study.drawn:  # of those within a budget there may be fewer
        return drawn.get((candidate.space, candidate.method, candidate.seed))
    text = candidate.architecture
    return Architecture.load(text) if Path(text).exists() else parse_arch(text)


def _scores(judge: Judge, table: Table, architecture: Architecture) -> dict[str, float]:
    found = {score.column: score.value for score in query(table, architecture).scores}
    return {column: found[column] for column in columns_of(judge, table)}


class _Told:
    """What a table tells of a study: scores, and how good those can be that keep a budget."""

    def __init__(self, study: Study, judge: Judge, table: Table) -> None:
        self.study, self.judge, self.table = study, judge, table
        self._limits = limits_of(study)
        self._best: dict[tuple[str, str], float | None] = {}

    def limits(self, candidate: Candidate) -> Limits | None:
        return self._limits.get(self.study.budget_of(candidate.method))

    def attainable(self, candidate: Candidate, column: str) -> float | None:
        key = (self.study.budget_of(candidate.method), column)
        if key not in self._best:
            limits = self.limits(candidate)
            self._best[key] = None if limits is None or is_cost(column) else limits.best(self.table, column)
        return self._best[key]


def _looked_up(told: _Told, candidate: Candidate, architecture: Architecture, run: Run | None) -> Iterator[Result]:
    limits = told.limits(candidate)
    for column, score in _scores(told.judge, told.table, architecture).items():
        yield Result(
            **_of(candidate),
            **place_of_column(told.judge, column),
            score=score,
            **_spent(run),
            train_seconds=None,
            parameters=None,
            multiply_adds=None,
            choices=_choices(architecture),
            budget=told.study.budget_of(candidate.method),
            over=limits.over(format_arch(architecture)) if limits is not None and limits.most else None,
            attainable=told.attainable(candidate, column),
        )


def _curve(judge: Judge, table: Table, candidate: Candidate, run: Run | None) -> Iterator[Point]:
    if run is None:
        return
    spent = dict(zip(run.timings.epochs, itertools.accumulate(run.timings.columns.get("seconds", ())), strict=False))
    for frame in run.frames:
        for column, score in _scores(judge, table, frame.architecture).items():
            yield Point(
                **_of(candidate),
                **place_of_column(judge, column),
                epoch=frame.epoch,
                seconds=spent.get(frame.epoch, math.nan),
                score=score,
            )


def _retrained(study: Study, judge: Judge, candidate: Candidate, folder: Path, run: Run | None) -> Iterator[Result]:
    retraining = _read(retraining_folder(folder, judge, candidate))
    if retraining is None or retraining.architecture is None:
        return
    metric, highest = retraining.best
    value = retraining.summary.get(f"test_{metric}")
    if not isinstance(value, int | float) or not math.isfinite(value):
        return
    best_is: BestIs = "highest" if highest else "lowest"
    unit, factor = measured_by(metric, best_is)
    parameters, multiply_adds = (retraining.summary.get(name) for name in ("parameters", "multiply_adds"))
    yield Result(
        **_of(candidate),
        judge=judge.name if metric == "accuracy" else f"{judge.name} {metric}",
        metric=metric,
        unit=unit,
        best_is=best_is,
        score=factor * value,
        **_spent(run),
        train_seconds=_seconds(retraining),
        parameters=parameters if isinstance(parameters, int) else None,
        multiply_adds=multiply_adds if isinstance(multiply_adds, int) else None,
        choices=_choices(retraining.architecture),
        budget=study.budget_of(candidate.method),
    )


class _Of(TypedDict):
    space: str
    data: str
    method: str
    seed: int


def _of(candidate: Candidate) -> _Of:
    return {"space": candidate.space, "data": candidate.data, "method": candidate.method, "seed": candidate.seed}


def _seconds(run: Run | None) -> float | None:
    return None if run is None else sum(run.timings.columns.get("seconds", ()))


class _Spent(TypedDict):
    search_seconds: float | None
    selection_seconds: float | None


def _spent(run: Run | None) -> _Spent:
    """The time of a search, and of what its selection adds: epochs after those that it was planned for."""
    total, planned = _seconds(run), None if run is None else run.config.get("epochs")
    if run is None or total is None or run.command != "search" or not isinstance(planned, int):
        return {"search_seconds": total, "selection_seconds": None}
    seconds = run.timings.columns.get("seconds", ())
    members = run.metrics.columns.get("member", (0.0,) * len(seconds))
    own: Counter[float] = Counter()
    after = 0.0
    for member, spent in zip(members, seconds, strict=False):
        after += spent if own[member] >= planned else 0.0
        own[member] += 1
    return {"search_seconds": total - after, "selection_seconds": after}


def _choices(architecture: Architecture) -> str:
    return json.dumps(architecture.to_dict()["choices"], separators=(",", ":"), sort_keys=True)
