"""What is kept of a study: a small CSV file, one row for each score, from which all tables can be made again."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from archgrad.errors import ArchgradError, DataError
from archgrad.files import read_file
from archgrad.json_text import MAX_TEXT_BYTES, parse_json
from archgrad.study.budgets import TableFront
from archgrad.study.jobs import Candidate, retraining_folder
from archgrad.study.judging import Point, Result
from archgrad.study.place import Place
from archgrad.study.records import BETWEEN, read_records
from archgrad.study.runner import Outcome
from archgrad.study.settings_hash import settings_hash
from archgrad.study.study_file import Study

__all__ = ["Evidence", "Kept", "from_csv", "kept_of", "load_kept", "to_csv"]

_MINUTE = 60.0
_PACKAGES = ("python", "archgrad", "torch")


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a run ran on; empty texts where there was no run, as where a table judges a random architecture.

    Attributes:
        commit: Of archgrad's repository; empty for an installation that is no checkout.
        versions: Of Python, archgrad and torch.
        hardware: Processor, cores, threads and GPUs.
    """

    commit: str = ""
    versions: str = ""
    hardware: str = ""


@dataclass(frozen=True, kw_only=True)
class Kept(Place):
    """One score of a study; or one run that failed, whose place is empty; or the front of all networks of a table.

    Attributes:
        method: Name of a method or a baseline; of a run that failed, the run; empty for a front.
        seed: Of the search or the draw.
        score: In the place's unit; None for a run that failed and for a front.
        course: Scores of the architectures after each epoch, where a table judges.
        course_minutes: From the beginning of the search to the end of each of these epochs.
        search_minutes: That the search took.
        selection_minutes: Of further epochs, in which the search's selection decides.
        train_minutes: That the retraining took.
        parameters: Of the retrained network.
        multiply_adds: Of the retrained network, for one input.
        choices: The architecture's decisions as JSON.
        budget: As in `Result`.
        over: As in `Result`.
        attainable: As in `Result`.
        commit: As in `Evidence`.
        versions: As in `Evidence`.
        hardware: As in `Evidence`.
        settings: Hash of those that the score comes from.
        failed: The last lines of a run that failed.
        front: Of a front, what its networks cost, as in `TableFront`.
        front_costs: Their costs.
        front_scores: Their scores.
    """

    method: str
    seed: int | None
    score: float | None
    course: tuple[float, ...] = ()
    course_minutes: tuple[float, ...] = ()
    search_minutes: float | None = None
    selection_minutes: float | None = None
    train_minutes: float | None = None
    parameters: int | None = None
    multiply_adds: int | None = None
    choices: str = ""
    budget: str = ""
    over: float | None = None
    attainable: float | None = None
    commit: str = ""
    versions: str = ""
    hardware: str = ""
    settings: str = ""
    failed: str = ""
    front: str = ""
    front_costs: tuple[float, ...] = ()
    front_scores: tuple[float, ...] = ()

    @property
    def result(self) -> Result:
        """The score as the tables take it."""
        assert self.score is not None
        assert self.seed is not None
        return Result(
            **vars(self.place),
            method=self.method,
            seed=self.seed,
            score=self.score,
            search_seconds=_times(self.search_minutes, _MINUTE),
            selection_seconds=_times(self.selection_minutes, _MINUTE),
            train_seconds=_times(self.train_minutes, _MINUTE),
            parameters=self.parameters,
            multiply_adds=self.multiply_adds,
            choices=self.choices,
            budget=self.budget,
            over=self.over,
            attainable=self.attainable,
        )

    @property
    def table_front(self) -> TableFront:
        """The front as the pictures take it."""
        assert self.front
        return TableFront(**vars(self.place), cost=self.front, costs=self.front_costs, scores=self.front_scores)

    @property
    def points(self) -> list[Point]:
        """The scores of the epochs, as the pictures take them."""
        assert self.seed is not None
        return [
            Point(
                **vars(self.place),
                method=self.method,
                seed=self.seed,
                epoch=epoch,
                seconds=minutes * _MINUTE,
                score=score,
            )
            for epoch, (score, minutes) in enumerate(zip(self.course, self.course_minutes, strict=True))
        ]


def kept_of(
    study: Study,
    candidates: Sequence[Candidate],
    results: Sequence[Result],
    points: Sequence[Point],
    outcomes: Mapping[str, Outcome],
    folder: Path,
    fronts: Sequence[TableFront] = (),
) -> list[Kept]:
    """Return what is kept: a row for each score, then one for each run that failed and for each front.

    Args:
        study: What was compared.
        candidates: What was judged.
        results: Every score.
        points: The scores of each epoch's architecture.
        outcomes: How each job ended.
        folder: Of the study.
        fronts: Of all networks of the tables that judge.
    """
    places = {(one.space, one.data, one.method, one.seed): one for one in candidates}
    judges = {judge.name: judge for judge in study.judges}
    courses: dict[tuple[Place, str, int], list[Point]] = {}
    for point in points:
        courses.setdefault((point.place, point.method, point.seed), []).append(point)
    rows = []
    hashes = {one: settings_hash(study, one) for one in candidates}
    for one in results:
        candidate = places[one.space, one.data, one.method, one.seed]
        judge = judges[one.judge.partition(" ")[0]]  # a column or a metric follows
        run = candidate.run if judge.table is not None else retraining_folder(folder, judge, candidate)
        course = courses.get((one.place, one.method, one.seed), [])
        evidence = Evidence() if run is None else _evidence(run)
        rows.append(
            Kept(
                **vars(one.place),
                method=one.method,
                seed=one.seed,
                score=one.score,
                course=tuple(point.score for point in course),
                course_minutes=tuple(point.seconds / _MINUTE for point in course),
                search_minutes=_times(one.search_seconds, 1 / _MINUTE),
                selection_minutes=_times(one.selection_seconds, 1 / _MINUTE),
                train_minutes=_times(one.train_seconds, 1 / _MINUTE),
                parameters=one.parameters,
                multiply_adds=one.multiply_adds,
                choices=one.choices,
                budget=one.budget,
                over=one.over,
                attainable=one.attainable,
                settings=hashes[candidate],
                **vars(evidence),
            )
        )
    failed = [(name, outcome.reason) for name, outcome in outcomes.items() if not outcome.done]
    empty = Kept(space="", data="", judge="", method="", seed=None, score=None)
    rows += [replace(empty, method=name, failed=reason or "no reason was given") for name, reason in failed]
    return rows + [
        replace(empty, **vars(each.place), front=each.cost, front_costs=each.costs, front_scores=each.scores)
        for each in fronts
    ]


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _evidence(run: Path) -> Evidence:
    """What a run's folder says of where it ran."""
    try:
        found: Any = parse_json(read_file(run / "environment.json", most=MAX_TEXT_BYTES).decode("utf-8"))
        versions, hardware = found["versions"], found["hardware"]
        gpus = [f", {gpu['name']}" for gpu in hardware["gpus"]]
        return Evidence(
            commit=str(found.get("commit", "")),
            versions=", ".join(f"{name} {versions[name]}" for name in _PACKAGES if name in versions),
            hardware=f"{hardware['processor']}, {hardware['cores']} cores, threads of a run: {hardware['threads']}"
            + "".join(gpus),
        )
    except (OSError, ArchgradError, ValueError, KeyError, TypeError):
        return Evidence()


def to_csv(rows: Sequence[Kept]) -> str:
    """Return rows as CSV with a header; numbers have six digits, several stand in one cell with `;` between."""
    text = io.StringIO()
    names = [each.name for each in fields(Kept)]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _cell(getattr(row, name)) for name in names})
    return text.getvalue()


def _cell(value: Any) -> str:
    if isinstance(value, tuple):
        return BETWEEN.join(map(_cell, value))
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def load_kept(path: str | os.PathLike[str]) -> list[Kept]:
    """Read the rows of a file that `--keep` wrote.

    Raises:
        DataError: The file cannot be read, or a row is broken.
    """
    try:
        return from_csv(read_file(path).decode("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"'{path}' cannot be read: {error}. Name a file that was kept of a study.") from error


def from_csv(text: str) -> list[Kept]:
    """Read rows that `to_csv` wrote.

    Raises:
        DataError: A row is broken.
    """
    return read_records(Kept, text, of="a study")
