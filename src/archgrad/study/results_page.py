"""A page of results: the tables and pictures of studies, made from what is kept of them and from nothing else."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from archgrad.errors import DataError
from archgrad.report.scene import Picture
from archgrad.report.svg import svg_file
from archgrad.study.budgets import TableFront
from archgrad.study.judging import Point, Result
from archgrad.study.kept import Kept
from archgrad.study.pareto import pareto_picture, tradeoffs
from archgrad.study.study_pictures import course_pictures, rank_picture, seed_picture
from archgrad.study.study_tables import to_markdown
from archgrad.study.summary import mean_ranks, rows_of, unranked

__all__ = ["Section", "filled", "section"]

_BLOCK = re.compile(r"(<!-- study: ([\w.+-]+) -->\n).*?(<!-- end of study -->\n)", re.DOTALL)
_WIDTH = 116
_COMMIT = 10
"""Digits of a commit that are shown."""


class Section(NamedTuple):
    """What a page shows of a study."""

    text: str
    """Markdown."""
    pictures: Mapping[str, str]
    """Name of a file -> SVG."""


def filled(page: str, studies: Mapping[str, Sequence[Kept]], *, images: str) -> tuple[str, dict[str, str]]:
    """Return a page with the tables of studies in their places, and its pictures by the names of their files.

    A place begins with a line `<!-- study: NAME -->` and ends with a line `<!-- end of study -->`; what is between is
    replaced.

    Args:
        page: Markdown.
        studies: What is kept of each, by name.
        images: Folder of the pictures, from the page.

    Raises:
        DataError: The page has no place for a study, or one for a study of which nothing is kept.
    """
    places = [match[2] for match in _BLOCK.finditer(page)]
    if sorted(places) != sorted(studies):
        raise DataError(
            f"The page has places for {', '.join(places) or 'no study'}, but kept are "
            f"{', '.join(studies) or 'none'}. Add or remove lines <!-- study: NAME --> and <!-- end of study -->."
        )
    sections = {name: section(name, rows, images=images) for name, rows in studies.items()}
    pictures = {file: svg for each in sections.values() for file, svg in each.pictures.items()}
    return _BLOCK.sub(lambda match: match[1] + sections[match[2]].text + match[3], page), pictures


def section(name: str, rows: Sequence[Kept], *, images: str) -> Section:
    """Return what a page shows of a study: where and how long it ran, its tables and pictures, and what failed.

    Args:
        name: Of the study; names of files begin with it.
        rows: What is kept of it.
        images: Folder of the pictures, from the page.
    """
    scores = [row for row in rows if row.score is not None]
    results = [row.result for row in scores]
    points = [point for row in scores for point in row.points]
    fronts = [row.table_front for row in rows if row.front]
    failed = [row for row in rows if row.failed]
    parts = [_facts(rows), to_markdown(rows_of(results))]
    parts += [_wrapped(f"- {row.method} failed: {row.failed}") for row in failed]
    pictures: dict[str, str] = {}
    for number, (picture, said) in enumerate(_pictures(results, points, fronts), 1):
        file = f"{name}-{number}.svg"
        pictures[file] = svg_file(picture.wide)
        parts.append(f"![{picture.title}]({images}/{file})\n" + (f"\n{_wrapped(said)}" if said else ""))
    return Section("\n" + "\n".join(parts) + "\n", pictures)


def _facts(rows: Sequence[Kept]) -> str:
    """How many runs, how long, and on what."""
    searches = {(row.space, row.data, row.method, row.seed): row for row in rows if row.search_minutes is not None}
    minutes = sum((row.search_minutes or 0.0) + (row.selection_minutes or 0.0) for row in searches.values())
    trained = [row.train_minutes for row in rows if row.train_minutes is not None]
    lines = [
        f"{len(searches)} searches of {minutes:.1f} minutes together, {len(trained)} retrainings of "
        f"{sum(trained):.1f} minutes; {sum(bool(row.failed) for row in rows)} runs failed."
    ]
    for label, attribute in (("Hardware", "hardware"), ("Versions", "versions"), ("Commit", "commit")):
        found = dict.fromkeys(value for row in rows if (value := getattr(row, attribute)))
        values = [value[:_COMMIT] if attribute == "commit" else value for value in found]
        if values:
            lines.append(f"{label}: {'; '.join(values)}.")
    return "\n".join(map(_wrapped, lines))


def _wrapped(text: str) -> str:
    return textwrap.fill(text, _WIDTH, break_long_words=False, break_on_hyphens=False) + "\n"


def _pictures(
    results: Sequence[Result], points: Sequence[Point], fronts: Sequence[TableFront]
) -> Iterator[tuple[Picture, str]]:
    """Every picture, and what is said below it."""
    places, found = dict.fromkeys(result.place for result in results), tradeoffs(results)
    for number, place in enumerate(places):
        own = [result for result in results if result.place == place]
        picture = seed_picture(rows_of(own), own)
        yield picture, picture.caption
        for front in fronts:
            if front.place == place and (place, front.cost) in found:
                picture = pareto_picture(place, front.cost, found[place, front.cost], front)
                yield picture, picture.caption
        ranks = mean_ranks(own)
        if ranks is not None:
            picture = rank_picture(ranks, f"mean-ranks-{number}")
            said = picture.caption
            if not math.isnan(ranks.p_value):
                said += f" Friedman's test that all methods are alike: p = {ranks.p_value:.3g}."
            if left := unranked(own, ranks):
                said += f" Without a rank, as they have no score for every seed: {', '.join(left)}."
            yield picture, said
        course = [point for point in points if point.place == place]
        yield from ((picture, "") for picture in course_pictures(course))
