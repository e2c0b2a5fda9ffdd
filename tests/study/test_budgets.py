"""Budgets in columns of a table: what keeps them, how good it can be, and random architectures that keep them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from archgrad.errors import OptionError
from archgrad.nasbench import format_arch, load_table, parse_arch
from archgrad.study import Judge, Study, load_study, study
from archgrad.study.budgets import TableFront, fronts_of, limits_of, random_within
from archgrad.study.jobs import candidates_of, jobs_for, jobs_of, judges_of
from archgrad.study.judging import Result, judged
from archgrad.study.kept import from_csv, kept_of, to_csv
from archgrad.study.pareto import pareto_picture, tradeoffs
from archgrad.study.results_page import section
from archgrad.study.settings_hash import settings_hash
from archgrad.study.study_tables import to_markdown
from archgrad.study.summary import mean_ranks, rows_of

PLAN = """
methods: darts
spaces: [{{space: nasbench-macro, channels: 4}}]
data: [{{data: digits, train_samples: 32}}]
seeds: [0, 1]
search: {{epochs: 1, batch_size: 16, device: cpu}}
cost_table: {table}
budgets: [null, multiply-adds<=4, 'phone_ms<=6, parameters<=3']
judges: [{{table: {table}, columns: [accuracy, multiply_adds]}}]
random: 4
architectures: {{all-largest: "22222222", small: "10000001"}}
"""
SMALL, TWO = "multiply-adds<=4", "phone_ms<=6, parameters<=3"


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layer of digit d costs d, d and 2 d ms; it is worth 5 d percent, and a first one of digit 2 one more."""
    path = tmp_path_factory.mktemp("table") / "table.csv"
    lines = ["arch,accuracy,multiply_adds,phone_ms,parameters"]
    for digits in itertools.product((0, 1, 2), repeat=8):
        total = sum(digits)
        lines.append(f"{''.join(map(str, digits))},{5 * total + (digits[0] == 2)},{total},{2 * total},{total}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def plan(table: Path, tmp_path: Path) -> Study:
    (tmp_path / "plan.yaml").write_text(PLAN.format(table=table), encoding="utf-8")
    return load_study(tmp_path / "plan.yaml")


def test_a_study_knows_its_budgets_and_who_keeps_them(plan: Study) -> None:
    assert plan.budgets == (SMALL, TWO)
    assert plan.drawn == {"random": "", "random-multiply-adds-4": SMALL, "random-phone_ms-6+parameters-3": TWO}
    assert plan.budget_of("darts-multiply-adds-4") == plan.budget_of("random-multiply-adds-4") == SMALL
    assert plan.budget_of("darts") == plan.budget_of("all-largest") == ""


def test_the_best_of_a_table_is_the_best_that_keeps_every_limit(plan: Study, table: Path) -> None:
    limits, known = limits_of(plan), load_table(table)
    best = {budget: limits[budget].best(known, "accuracy") for budget in ("", SMALL, TWO)}
    assert best == {"": 81.0, SMALL: 21.0, TWO: 16.0}  # 5 * total + 1, of total 16, 4 and 3
    assert limits[SMALL].over("22000000") == 0.0
    assert limits[TWO].over("22000000") == pytest.approx(1 / 3)
    # What the table does not have is measured, and then nobody knows the best.
    assert set(limits_of(replace(plan, search={**plan.search, "budget": "activations<=4"}))) == {"", SMALL, TWO}


def test_random_networks_keep_the_budget_and_none_is_drawn_twice(plan: Study) -> None:
    limits = limits_of(plan)[SMALL]
    drawn = [format_arch(each) for each in random_within("nasbench-macro", limits, count=50, seed=0)]
    assert len(set(drawn)) == 50
    assert all(sum(map(int, arch)) <= 4 for arch in drawn)
    # Of (1 + x + x^2)^8 the coefficients up to x^4: 1, 8, 36, 112 and 266.
    assert len(random_within("nasbench-macro", limits, count=9999, seed=0)) == 1 + 8 + 36 + 112 + 266


def judged_of(plan: Study, folder: Path) -> list[Result]:
    """The scores of what no search is needed for, and of one made up search a budget, each of total 4."""
    candidates = candidates_of(plan, folder)
    four = random_within("nasbench-macro", limits_of(plan)[SMALL], count=4, seed=0)
    drawn = {
        (candidate.space, candidate.method, candidate.seed): four[candidate.seed]
        for candidate in candidates
        if candidate.method in plan.drawn
    }
    results, _, _ = judged(plan, candidates, folder, drawn)
    first = next(result for result in results if result.method == "small")
    best = {"": 81.0, SMALL: 21.0, TWO: 16.0}
    for entry in plan.methods:
        budget = plan.budget_of(entry.name)
        made: dict[str, Any] = {"method": entry.name, "budget": budget, "search_seconds": 60.0}
        over = {"": None, SMALL: 0.0, TWO: 1 / 3}[budget]
        for seed in (0, 1):
            results.append(replace(first, **made, seed=seed, score=20.0, over=over, attainable=best[budget]))
            cost: dict[str, Any] = {"judge": "table multiply_adds", "metric": "multiply_adds", "unit": ""}
            results.append(replace(results[-1], **cost, best_is="lowest", score=4.0, attainable=None))
    return results


def test_scores_say_how_far_they_are_from_what_the_budget_allows(plan: Study, tmp_path: Path) -> None:
    results = judged_of(plan, tmp_path)
    small = {result.judge: result for result in results if result.method == "small"}
    assert (small["table accuracy"].score, small["table multiply_adds"].score) == (10.0, 2.0)
    assert (small["table accuracy"].attainable, small["table multiply_adds"].attainable) == (81.0, None)
    assert {result.over for result in results if result.method == "random"} == {None}
    drawn = [result for result in results if result.method == "random-multiply-adds-4" and result.unit == "%"]
    assert [result.seed for result in drawn] == [0, 1, 2, 3]
    assert all(result.drawn and result.budget == SMALL and result.attainable == 21.0 for result in drawn)
    assert all(result.over == (result.score // 5) / 4 - 1 for result in drawn)

    rows = {row.method: row for row in rows_of(results) if row.unit == "%"}
    mean = sum(result.score for result in drawn) / 4
    darts = rows["darts-multiply-adds-4"]
    assert (darts.gain, darts.regret, darts.keeping) == (20.0 - mean, 1.0, 2)
    assert rows["darts-phone_ms-6+parameters-3"].keeping == 0
    assert rows["darts"].regret == 61.0
    text = to_markdown(list(rows.values()))
    assert "| gain over random | below the best | keep budget | agreement |" in text
    assert "| 1.00 | 2 of 2 |" in text
    # Random architectures of any budget do not rank, and nobody ranks by what networks cost.
    ranks = mean_ranks(results)
    assert ranks is not None
    assert set(ranks.methods) == {entry.name for entry in plan.methods}
    assert ranks.blocks == 2


def test_a_network_that_the_table_lacks_is_told_and_does_not_stop_the_others(
    plan: Study, table: Path, tmp_path: Path
) -> None:
    known = [one for one in candidates_of(plan, tmp_path) if one.run is None and one.method not in plan.drawn]
    results, _, unknown = judged(plan, known, tmp_path, {})
    assert unknown == {}
    arch = format_arch(parse_arch(plan.architectures["small"]))
    lines = table.read_text(encoding="utf-8").splitlines(keepends=True)
    short = tmp_path / "table.csv"
    short.write_text("".join(line for line in lines if arch not in line), encoding="utf-8")
    plan = replace(plan, judges=[replace(judge, table=str(short)) for judge in plan.judges])
    fewer, _, unknown = judged(plan, known, tmp_path, {})
    assert unknown.keys() == {"small"}
    assert arch in unknown["small"]
    assert fewer == [one for one in results if one.method != "small"]
    assert fewer


def test_a_study_without_tables_of_costs_shows_no_such_columns(plan: Study, tmp_path: Path) -> None:
    known = {"budget": "", "over": None, "attainable": None}
    rows = rows_of([replace(result, **known) for result in judged_of(plan, tmp_path) if result.method == "small"])
    assert "below the best" not in to_markdown(rows)


def test_the_front_of_the_table_is_drawn_behind_the_methods_and_kept(plan: Study, tmp_path: Path) -> None:
    (front,) = fronts_of(plan)
    # All of accuracy 5 * total + 1 but the first two, which have no layer of digit 2 in front.
    assert (front.judge, front.cost) == ("table accuracy", "multiply adds")
    assert front.costs == tuple(range(17))
    assert front.scores == (0.0, 5.0, *(5.0 * total + 1 for total in range(2, 17)))
    assert [front.best_at(cost) for cost in (0, 3.5, 99)] == [0.0, 16.0, 81.0]
    assert front.best_at(-1) is None

    results = judged_of(plan, tmp_path)
    found = tradeoffs(results)[front.place, front.cost]
    picture = pareto_picture(front.place, front.cost, found, front)
    assert picture.caption.endswith("Steps: the best of all networks of the table.")
    steps = [item for item in picture.wide.items if getattr(item, "stroke", "") == "c3"]
    assert len(steps) == 1
    assert not pareto_picture(front.place, front.cost, found).caption.endswith("of the table.")

    rows = kept_of(plan, candidates_of(plan, tmp_path), results, [], {}, tmp_path, [front])
    again = from_csv(to_csv(rows))
    assert [row.table_front for row in again if row.front] == [front]
    assert [row.result.attainable for row in again if not row.front] == [result.attainable for result in results]
    page, pictures = section("mine", again, images="images")
    assert "Accuracy over multiply adds" in page
    assert "Steps: the best of all networks" in page.replace("\n", " ")
    assert any("On the front" in svg for svg in pictures.values())


def test_the_front_is_drawn_where_methods_are(plan: Study, tmp_path: Path) -> None:
    (front,) = fronts_of(plan)
    found = tradeoffs(judged_of(plan, tmp_path))[front.place, front.cost]
    far = TableFront(**vars(front.place), cost=front.cost, costs=(99.0,), scores=(99.0,))
    assert not pareto_picture(front.place, front.cost, found, far).caption.endswith("of the table.")


def test_random_networks_within_a_budget_are_judged_by_tables_alone(plan: Study, tmp_path: Path) -> None:
    short: dict[str, Any] = {"epochs": 1}
    both = replace(plan, judges=(*plan.judges, Judge(name="short", retrain=short)))
    within = next(each for each in candidates_of(both, tmp_path) if each.method == "random-multiply-adds-4")
    assert [judge.name for judge in judges_of(both, within)] == ["table"]
    assert jobs_for(both, within, tmp_path) == []
    plain = next(each for each in candidates_of(both, tmp_path) if each.method == "random")
    assert [job.command for job in jobs_for(both, plain, tmp_path)] == ["retrain"]
    # Without a table that tells what is within the budget there is no such baseline.
    for other in (replace(both, judges=both.judges[1:]), replace(both, cost_table=None)):
        assert {each.method for each in candidates_of(other, tmp_path)} & {*plan.drawn} == {"random"}


def test_searches_under_a_budget_alone_are_given_the_table(plan: Study, table: Path, tmp_path: Path) -> None:
    options = {job.name.split("/")[3]: job.options for job in jobs_of(plan, tmp_path)}
    assert "cost_table" not in options["darts"]
    assert options["darts-multiply-adds-4"]["cost_table"] == str(table)


def test_the_hash_of_random_networks_has_their_budget_and_its_table(plan: Study, tmp_path: Path) -> None:
    within = next(each for each in candidates_of(plan, tmp_path) if each.method == "random-multiply-adds-4")

    def hash_with(table: str) -> str:
        return settings_hash(replace(plan, cost_table=table), within)

    assert hash_with("a.csv") == hash_with("/some/where/a.csv") != hash_with("b.csv")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": "{random-multiply-adds-4: '22222222'}"}, "'random-multiply-adds-4' is taken"),
        ({"budgets": "[multiply-adds<4]"}, "takes COST<=NUMBER"),
    ],
)
def test_names_and_budgets_are_checked(table: Path, tmp_path: Path, change: Mapping[str, str], message: str) -> None:
    lines = PLAN.format(table=table).strip().splitlines()
    fields = {line.partition(": ")[0]: line.partition(": ")[2] for line in lines}
    text = "\n".join(f"{name}: {value}" for name, value in (fields | dict(change)).items())
    (tmp_path / "plan.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(OptionError, match=message):
        load_study(tmp_path / "plan.yaml")


@pytest.mark.slow
def test_a_study_with_budgets_runs_and_reports(plan: Study, tmp_path: Path) -> None:
    plan = replace(plan, seeds=(0,), methods=plan.methods[:2])
    whole = study(plan, tmp_path / "out", threads=1, jobs=2, quiet=True, keep=tmp_path / "kept.csv")
    assert whole.failed == {}
    rows = {row.method: row for row in whole.rows if row.unit == "%"}
    assert set(rows) == {"darts", "darts-multiply-adds-4", "all-largest", "small", *[*plan.drawn][:2]}
    assert rows["random-multiply-adds-4"].keeping == rows["random-multiply-adds-4"].n == 4
    page = whole.report.read_text(encoding="utf-8")
    assert "best of the table at that cost" in page
    assert "keep budget" in page
    kept = from_csv((tmp_path / "kept.csv").read_text(encoding="utf-8"))
    assert {row.budget for row in kept} == {"", SMALL}
    assert [row.front for row in kept if row.front] == ["multiply adds"]
    # It goes on elsewhere from what is kept, and has nothing to run.
    study(plan, tmp_path / "on", quiet=True, continue_from=tmp_path / "kept.csv", keep=tmp_path / "again.csv")
    assert not (tmp_path / "on" / "searches").exists()
    assert from_csv((tmp_path / "again.csv").read_text(encoding="utf-8")) == kept
