"""What is kept of a study, and what is left to judge and run."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from archgrad.errors import OptionError
from archgrad.study import Entry, Judge, Study
from archgrad.study.continued import goes_on_from, still_to_run
from archgrad.study.jobs import Candidate, candidates_of, judges_of
from archgrad.study.kept import Kept
from archgrad.study.settings_hash import settings_hash

TABLE, SHORT = Judge(name="table", table="t.csv"), Judge(name="short", retrain={"epochs": 1})


def study_by(*judges: Judge) -> Study:
    one = (Entry(name="one", options={}),)
    given: dict[str, Any] = {"random": 2, "architectures": {"all-conv": "..."}, "seeds": (0, 1, 2)}
    return Study(methods=one, spaces=one, data=one, judges=judges, **given)


def rows_of(study: Study, candidate: Candidate) -> list[Kept]:
    place = {name: getattr(candidate, name) for name in ("space", "data", "method", "seed")}
    settings = settings_hash(study, candidate)
    return [Kept(**place, judge=f"{each.name} x", score=1.0, settings=settings) for each in judges_of(study, candidate)]


def test_a_table_judges_a_given_architecture_once_also_where_a_study_goes_on() -> None:
    for judges in ((TABLE,), (TABLE, SHORT)):
        study = study_by(*judges)
        candidates = candidates_of(study, Path("out"))
        rows = [row for candidate in candidates for row in rows_of(study, candidate)]
        of_table = [row.seed for row in rows if row.method == "all-conv" and row.judge == "table x"]
        assert of_table == [0]
        kept = goes_on_from(study, candidates, rows)
        assert set(kept) == set(candidates)  # nothing is judged again
        assert sorted(map(repr, itertools.chain(*kept.values()))) == sorted(map(repr, rows))
        assert still_to_run(study, kept, Path("out")) == []


def test_rows_of_judges_and_seeds_that_a_study_does_not_have_are_left_out() -> None:
    study = study_by(SHORT)
    candidates = candidates_of(study, Path("out"))
    rows = [row for candidate in candidates for row in rows_of(study, candidate)]
    rows += [replace(row, judge="before") for row in rows] + [replace(row, seed=9) for row in rows]
    kept = goes_on_from(study, candidates, rows)
    assert {row.judge for found in kept.values() for row in found} == {"short x"}
    with pytest.raises(OptionError, match=r"one/one/one/seed-0 is kept more than once"):
        goes_on_from(study, candidates, [*rows, rows[0]])
    missing = goes_on_from(study, candidates, rows[1:])
    assert [job.name for job in still_to_run(study, missing, Path("out"))] == [
        "searches/one/one/one/seed-0",
        "retrainings/short/one/one/one/seed-0",
    ]
