"""Score and cost of methods: means, the front, and the picture of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from archgrad.study.judging import Result
from archgrad.study.pareto import front, pareto_picture, tradeoffs
from archgrad.study.place import Place
from archgrad.study.study_file import Entry, Judge, Study
from archgrad.study.study_report import write_study_report


def result(method: str, seed: int, score: float, parameters: int | None, **changed: Any) -> Result:
    values: dict[str, Any] = {
        "space": "tiny", "data": "digits", "judge": "short", "search_seconds": 30.0, "selection_seconds": 6.0,
        "train_seconds": 1.0, "multiply_adds": None, "choices": "{}", "method": method, "seed": seed, "score": score,
        "parameters": parameters,
    }  # fmt: skip
    return Result(**values | changed)


FOUND = [
    *(result("small", 0, 60.0, 90), result("small", 1, 70.0, 110)),  # 65 % at 100
    *(result("middle", 0, 64.0, 200), result("middle", 1, 66.0, 200)),  # as good, and dearer
    result("large", 0, 80.0, 300),
    result("larger", 0, 79.0, 301),
    result("random", 0, 99.0, 1),
]


def test_the_front_holds_what_nothing_beats_in_both_means() -> None:
    ((place, cost),) = tradeoffs(FOUND)
    found = tradeoffs(FOUND)[place, cost]
    assert (place, cost) == (FOUND[0].place, "parameters")
    assert [(each.method, each.cost, each.score) for each in found[:2]] == [("small", 100, 65), ("middle", 200, 65)]
    assert found[0].seeds == ((90.0, 60.0), (110.0, 70.0))
    assert [each.method for each in front(place, found)] == ["small", "large"]
    reverse = Place(space="tiny", data="digits", judge="short", metric="mse", unit="", best_is="lowest")
    assert [each.method for each in front(reverse, found)] == ["small"]


def test_the_picture_names_the_front_and_every_network() -> None:
    ((key, found),) = tradeoffs(FOUND).items()
    picture = pareto_picture(*key, found)
    assert picture.wide.name.endswith("On the front: small 65.00 % at 100; large 80.00 % at 300")
    told = [getattr(item, "title", "") for item in picture.wide.items]
    assert "random: 99.00 %, 1 parameters" in told
    assert "small, mean: 65.00 %, 100 parameters" in told


def test_the_report_of_a_study_shows_it(tmp_path: Path) -> None:
    one = {axis: (Entry(name="one", options={}),) for axis in ("methods", "spaces", "data")}
    study = Study(**one, judges=(Judge(name="short", retrain={}),))  # type: ignore[arg-type]
    page = write_study_report(study, FOUND, [], {}, tmp_path).read_text(encoding="utf-8")
    assert "Score and cost" in page
    assert "<td>300</td><td>80.00 %</td><td>1</td>" in page


def test_costs_of_a_table_are_those_of_the_same_search() -> None:
    table = {"train_seconds": None, "parameters": None}
    of_cost = {**table, "judge": "table edge_ms", "metric": "edge_ms", "unit": "ms", "best_is": "lowest"}
    scores = [result("darts", seed, 90.0 + seed, **table, judge="table test") for seed in (0, 1)]
    costs = [result("darts", seed, 5.0 + seed, **of_cost) for seed in (0, 1)]
    ((key, (darts,)),) = tradeoffs([*scores, *costs]).items()
    assert key == (scores[0].place, "edge in ms")
    assert darts.seeds == ((5.0, 90.0), (6.0, 91.0))


@pytest.mark.parametrize("parameters", [None, 7])
def test_without_costs_that_differ_there_is_no_picture(parameters: int | None) -> None:
    assert tradeoffs([result("darts", seed, 90.0, parameters) for seed in (0, 1)]) == {}
