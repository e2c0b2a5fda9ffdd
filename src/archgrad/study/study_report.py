"""The report of a study: one HTML file, and its tables as CSV and Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from archgrad.files import write_text
from archgrad.report.elements import details, facts, figure, grid, notes, table
from archgrad.report.page import page
from archgrad.report.read import flatten
from archgrad.report.svg import escape
from archgrad.study.budgets import TableFront
from archgrad.study.judging import Point, Result
from archgrad.study.pareto import front, pareto_picture, tradeoffs
from archgrad.study.place import Place
from archgrad.study.runner import Outcome
from archgrad.study.study_file import Study
from archgrad.study.study_pictures import course_pictures, rank_picture, seed_picture
from archgrad.study.study_tables import table_of, to_csv, to_markdown
from archgrad.study.summary import Row, agreed, agreement, mean_ranks, rows_of, unranked

__all__ = ["write_study_report"]


def write_study_report(
    study: Study,
    results: Sequence[Result],
    points: Sequence[Point],
    outcomes: Mapping[str, Outcome],
    folder: Path,
    fronts: Sequence[TableFront] = (),
) -> Path:
    """Write `results.csv`, `courses.csv`, `summary.csv`, `summary.md` and `report.html` into the study's folder.

    Args:
        study: What was compared.
        results: Every score; none is left out.
        points: The scores of each epoch's architecture.
        outcomes: How each job ended.
        folder: Of the study.
        fronts: Of all networks of the tables that judge.

    Returns:
        The HTML file.
    """
    rows = rows_of(results)
    write_text(folder / "results.csv", to_csv(results))
    write_text(folder / "courses.csv", to_csv(points))
    write_text(folder / "summary.csv", to_csv(rows))
    write_text(folder / "summary.md", to_markdown(rows))
    sections = [_overview(study, results, outcomes), *_places(rows, results, points, fronts), _settings(study)]
    links = [
        ("overview", "Overview"),
        *((f"place-{k}", name) for k, name in enumerate(_names(rows))),
        ("settings", "Settings"),
    ]
    file = folder / "report.html"
    write_text(file, page(f"Study {folder.name}", sections, links))
    return file


def _names(rows: Sequence[Row]) -> list[str]:
    return [place.name for place in dict.fromkeys(row.place for row in rows)]


def _overview(study: Study, results: Sequence[Result], outcomes: Mapping[str, Outcome]) -> str:
    done = sum(outcome.done for outcome in outcomes.values())
    hours = sum(outcome.seconds for outcome in outcomes.values()) / 3600
    failed = [f"{name} failed: {outcome.reason}" for name, outcome in outcomes.items() if not outcome.done]
    hint = (
        f"{done} of {len(outcomes)} runs are done, {hours:.1f} hours of them together. Every seed counts; methods are "
        f"ordered by their mean."
    )
    if study.folds is not None:
        hint += (
            f" Each seed trains on all but one of {study.folds} folds and is tested on that, so that means and "
            f"deviations are over folds: seed s has fold s mod {study.folds} + 1."
        )
    return (
        '<section id="overview" aria-labelledby="overview-title"><h2 id="overview-title">Overview</h2>'
        f'<p class="hint">{escape(hint)}</p>{notes(failed)}{_over_all(results)}</section>'
    )


def _over_all(results: Sequence[Result]) -> str:
    """How methods rank over several spaces, data sets and judges together."""
    places = {result.place for result in results}
    return _ranking(results, "mean-ranks-over-all") if len(places) > 1 else ""


def _ranking(results: Sequence[Result], name: str) -> str:
    """The picture of mean ranks, Friedman's test, and who has no rank."""
    ranks = mean_ranks(results)
    if ranks is None:
        return ""
    said = f"Friedman's test that all methods are alike: p = {ranks.p_value:.3g}. "
    left = unranked(results, ranks)
    hint = ("" if math.isnan(ranks.p_value) else said) + (
        f"Without a rank, as they have no score of their own for every seed: {', '.join(left)}." if left else ""
    )
    return figure(rank_picture(ranks, name)) + (f'<p class="hint">{escape(hint)}</p>' if hint else "")


def _agreement(results: Sequence[Result]) -> str:
    """Which decisions the seeds of each method agree on."""
    parts = []
    for method in dict.fromkeys(result.method for result in results):
        choices = [result.choices for result in results if result.method == method]
        drawn = any(result.drawn for result in results if result.method == method)
        if len(choices) > 1 and not drawn:
            cells = [
                [escape(label), escape(taken), f"{count} of {len(choices)}"]
                for label, (taken, count) in agreed(choices).items()
            ]
            content = table(["decision", "most take", "seeds"], cells, name=f"Agreement of the seeds of {method}")
            parts.append(details(f"{method}: {agreement(choices):.0%}", content))
    return f"<h3>Agreement of seeds</h3>{''.join(parts)}" if parts else ""


def _places(
    rows: Sequence[Row], results: Sequence[Result], points: Sequence[Point], fronts: Sequence[TableFront]
) -> list[str]:
    sections = []
    for k, place in enumerate(dict.fromkeys(row.place for row in rows)):
        name = place.name
        own = [row for row in rows if row.place == place]
        scores = [result for result in results if result.place == place]
        course = [point for point in points if point.place == place]
        head, told = table_of(own)
        cells = [[escape(cell) for cell in row] for row in told]
        sections.append(
            f'<section id="place-{k}" aria-labelledby="place-{k}-title"><h2 id="place-{k}-title">{escape(name)}</h2>'
            + table(head, cells, name=f"Scores: {name}")
            + figure(seed_picture(own, scores))
            + _fronts(place, results, fronts)
            + _ranking(scores, f"mean-ranks-{k}")
            + _agreement(scores)
            + grid([figure(picture) for picture in course_pictures(course)])
            + "</section>"
        )
    return sections


def _fronts(place: Place, results: Sequence[Result], fronts: Sequence[TableFront]) -> str:
    """Score over cost: a picture of each cost, and what is on the front."""
    parts = []
    of_tables = {(front.place, front.cost): front for front in fronts}
    for (where, cost), found in tradeoffs(results).items():
        if where == place:
            of_table = of_tables.get((place, cost))
            head = ["on the front", f"mean {cost}", f"mean {place.short}", "n"]
            head += [] if of_table is None else ["best of the table at that cost"]
            cells = []
            for each in front(place, found):
                mean = place.text(each.score, unit=True)
                cells.append([escape(each.method), f"{each.cost:,.6g}", mean, str(len(each.seeds))])
                if of_table is not None:
                    best = of_table.best_at(each.cost)
                    cells[-1].append("" if best is None else place.text(best, unit=True))
            parts.append(figure(pareto_picture(place, cost, found, of_table)))
            parts.append(table(head, cells, name=f"Methods that none beats in score and {cost}: {place.name}"))
    return f"<h3>Score and cost</h3>{''.join(parts)}" if parts else ""


def _settings(study: Study) -> str:
    values = flatten({name: _plain(value) for name, value in asdict(study).items()})
    return (
        '<section id="settings" aria-labelledby="settings-title"><h2 id="settings-title">Settings</h2>'
        + facts(values, name="The study")
        + "</section>"
    )


def _plain(value: object) -> object:
    """Entries by their name, so that they are one row a value."""
    if isinstance(value, tuple) and value and all(isinstance(each, dict) and "name" in each for each in value):
        return {each["name"]: {k: v for k, v in each.items() if k != "name"} for each in value}
    return value
