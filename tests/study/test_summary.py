"""Tables of scores against closed forms."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from archgrad.errors import DataError
from archgrad.study.judging import Result
from archgrad.study.study_tables import from_csv, to_csv, to_markdown
from archgrad.study.summary import agreed, agreement, mean_ranks, rows_of


def result(method: str, seed: int, score: float, **changed: Any) -> Result:
    values: dict[str, Any] = {
        "space": "tiny", "data": "digits", "judge": "short", "search_seconds": 30.0,
        "selection_seconds": 6.0, "train_seconds": None,
        "parameters": None, "multiply_adds": None, "choices": "{}",
    }  # fmt: skip
    return Result(**values | {"method": method, "seed": seed, "score": score} | changed)


def test_mean_spread_and_interval() -> None:
    scores = [result("darts", seed, score) for seed, score in enumerate([1.0, 2.0, 3.0])]
    (row,) = rows_of(scores)
    assert (row.n, row.mean, row.deviation, row.worst, row.best) == (3, 2.0, 1.0, 1.0, 3.0)
    assert row.high - row.mean == pytest.approx(4.302652729911275 / math.sqrt(3))  # Student's t, two degrees, 97.5 %
    assert (row.search_minutes, row.selection_minutes) == (0.5, 0.1)
    assert math.isnan(row.gain)


def test_an_interval_ends_where_accuracies_do() -> None:
    # Of 2 % and 98 % the mean is 50 and the half-width 12.7 * 67.9 / sqrt(2) = 609.9.
    (row,) = rows_of([result("darts", 0, 2.0), result("darts", 1, 98.0)])
    assert (row.low, row.high) == (0.0, 100.0)
    (row,) = rows_of([result("darts", seed, 100.0) for seed in (0, 1)])
    assert (row.low, row.high) == (100.0, 100.0)


def test_one_score_has_no_spread() -> None:
    (row,) = rows_of([result("darts", 0, 50.0)])
    assert row.mean == 50.0
    assert all(math.isnan(value) for value in (row.deviation, row.low, row.high, row.agreement))


def test_gain_is_over_the_mean_of_random_architectures() -> None:
    drawn = [
        result("random", seed, score, parameters=size) for seed, (score, size) in enumerate([(10.0, 5), (30.0, 9)])
    ]
    rows = {row.method: row for row in rows_of([result("darts", 0, 50.0), *drawn])}
    assert rows["darts"].gain == 30.0
    assert rows["random"].gain == 0.0
    assert rows["most-parameters"].mean == 30.0
    assert "most-multiply-adds" not in rows  # nobody counted them


def test_agreement_is_the_share_of_the_commonest_decision() -> None:
    cells = [
        {"cell": {"1": [["conv", 0]], "2": [["conv", 0], ["skip", 1]], "concat": [2]}, "head": "wide"},
        {"cell": {"1": [["conv", 0]], "2": [["skip", 0], ["skip", 1]], "concat": [2]}, "head": "wide"},
        {"cell": {"1": [["conv", 0]], "2": [["pool", 0], ["skip", 1]], "concat": [2]}, "head": "narrow"},
    ]
    # That the cell gives out its second node, nobody has decided.
    texts = [json.dumps(cell) for cell in cells]
    assert agreement(texts) == pytest.approx((1 + 1 / 3 + 1 + 2 / 3) / 4)
    assert list(agreed(texts).items())[:3] == [
        ("cell/0->1", ("conv", 3)), ("cell/1->2", ("skip", 3)), ("head", ("wide", 2)),
    ]  # fmt: skip
    assert math.isnan(agreement(["{}"]))


def test_mean_ranks_and_their_critical_difference() -> None:
    scores = [result(name, seed, score) for seed in range(6) for name, score in (("a", 3.0), ("b", 2.0), ("c", 2.0))]
    scores += [result("random", 0, 99.0), result("late", 0, 99.0)]  # neither has a score in every block
    ranks = mean_ranks(scores)
    assert ranks is not None
    assert dict(zip(ranks.methods, ranks.ranks, strict=True)) == {"a": 1.0, "b": 2.5, "c": 2.5}
    assert ranks.blocks == 6
    assert ranks.difference == pytest.approx(2.343 * math.sqrt(3 * 4 / (6 * 6)), abs=1e-3)  # Demsar 2006, table 5
    assert ranks.p_value < 0.01
    assert mean_ranks(scores[:3]) is None


def test_results_survive_csv() -> None:
    scores = [
        result("darts", 0, 12.5, parameters=7, choices='{"a":"b,c"}'),
        result("random", 1, 3.25, search_seconds=None, selection_seconds=None),
    ]
    assert from_csv(to_csv(scores)) == scores
    assert to_csv([]) == ""
    with pytest.raises(DataError, match="broken"):
        from_csv("space,score\ntiny,1\n")


def test_the_table_is_ordered_by_mean_and_shows_every_count() -> None:
    text = to_markdown(rows_of([result("b", 0, 1.0), result("a", 0, 2.0), result("a", 1, 4.0)]))
    lines = [line.split(" | ")[:3] for line in text.splitlines() if line.startswith("| ")][2:]
    assert lines == [["| a", "2", "3.00"], ["| b", "1", "1.00"]]
