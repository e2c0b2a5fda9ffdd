"""From scores to a table: mean, spread and interval of every method, and how it ranks."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, get_type_hints

from scipy import stats

from archgrad.errors import DataError
from archgrad.json_text import shown
from archgrad.study.judging import Point, Result

__all__ = [
    "HEAD",
    "Ranks",
    "Row",
    "agreement",
    "cells_of",
    "from_csv",
    "mean_ranks",
    "rows_of",
    "to_csv",
    "to_markdown",
]

_LARGEST = (("parameters", "most-parameters"), ("multiply_adds", "most-multiply-adds"))


@dataclass(frozen=True, kw_only=True)
class Row:
    """All seeds of one method under one judge.

    Attributes:
        space: Name in the study.
        data: Name in the study.
        judge: Name in the study.
        method: Name of a method or a baseline.
        n: Number of scores.
        mean: Percent.
        deviation: Sample standard deviation, percent; NaN for one score.
        low: Lower end of the 95 % interval of the mean (Student's t), percent; NaN for one score.
        high: Its upper end.
        worst: Percent.
        best: Percent.
        gain: Mean less that of the random architectures, percentage points; NaN without any.
        agreement: Mean over the decisions of the share of seeds that took the commonest one; NaN for one score.
        search_minutes: Mean; NaN where nothing was searched.
        train_minutes: Mean; NaN where nothing was trained.
        parameters: Mean; NaN where it is not known.
    """

    space: str
    data: str
    judge: str
    method: str
    n: int
    mean: float
    deviation: float
    low: float
    high: float
    worst: float
    best: float
    gain: float
    agreement: float
    search_minutes: float
    train_minutes: float
    parameters: float


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Mean ranks over blocks, a block being one space, data set, judge and seed (Demsar 2006, section 3.2.2).

    Attributes:
        methods: Best first.
        ranks: Mean rank of each; 1 is best.
        blocks: Their number.
        difference: Critical difference of Nemenyi's test at 5 %: mean ranks that are closer may differ by chance.
        p_value: Of Friedman's test that all methods are alike.
    """

    methods: tuple[str, ...]
    ranks: tuple[float, ...]
    blocks: int
    difference: float
    p_value: float


def rows_of(results: Sequence[Result]) -> list[Row]:
    """Return one row for each space, data set, judge and method, the methods in the order in which they come.

    Where random architectures were retrained, the one with the most parameters and the one with the most multiply-adds
    among them are rows of their own: what choosing by size alone gives.
    """
    groups: dict[tuple[str, str, str], dict[str, list[Result]]] = {}
    for result in results:
        group = groups.setdefault((result.space, result.data, result.judge), {})
        group.setdefault(result.method, []).append(result)
    rows = []
    for (space, data, judge), methods in groups.items():
        random = methods.get("random", [])
        for attribute, name in _LARGEST:
            sized = [result for result in random if getattr(result, attribute) is not None]
            if len(sized) > 1:
                methods[name] = [max(sized, key=lambda result: getattr(result, attribute))]
        middle = statistics.fmean(result.score for result in random) if random else math.nan
        rows += [_row(space, data, judge, method, found, middle) for method, found in methods.items()]
    return rows


def _row(space: str, data: str, judge: str, method: str, results: Sequence[Result], random: float) -> Row:
    scores = [result.score for result in results]
    mean, n = statistics.fmean(scores), len(scores)
    deviation = statistics.stdev(scores) if n > 1 else math.nan
    half = float(stats.t.ppf(0.975, n - 1)) * deviation / math.sqrt(n) if n > 1 else math.nan
    return Row(
        space=space,
        data=data,
        judge=judge,
        method=method,
        n=n,
        mean=mean,
        deviation=deviation,
        low=mean - half,
        high=mean + half,
        worst=min(scores),
        best=max(scores),
        gain=mean - random,
        agreement=agreement([result.choices for result in results]),
        search_minutes=_mean([result.search_seconds for result in results]) / 60,
        train_minutes=_mean([result.train_seconds for result in results]) / 60,
        parameters=_mean([result.parameters for result in results]),
    )


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else math.nan


def agreement(choices: Sequence[str]) -> float:
    """Return how far architectures agree: mean over the decisions of the share that took the commonest one.

    Args:
        choices: Decisions as JSON.

    Returns:
        From 1 / n to 1; NaN for fewer than two architectures.
    """
    if len(choices) < 2:
        return math.nan
    taken: dict[str, Counter[str]] = {}
    for text in choices:
        for place, decision in _decisions("", json.loads(text)):
            taken.setdefault(place, Counter())[decision] += 1
    return _mean([max(counter.values()) / len(choices) for counter in taken.values()])


def _decisions(place: str, value: Any) -> list[tuple[str, str]]:
    """Each edge or choice with what was taken there."""
    if isinstance(value, dict):
        return [one for key, inner in value.items() for one in _decisions(f"{place}/{key}", inner)]
    if isinstance(value, list) and value and all(isinstance(edge, list) for edge in value):
        return [(f"{place}<-{edge[1:]}", str(edge[0])) for edge in value]
    return [(place, json.dumps(value))]


def mean_ranks(results: Sequence[Result]) -> Ranks | None:
    """Return how the methods rank, over the blocks in which all of them have a score; None for less than two of each.

    Random architectures, and baselines whose score does not depend on a seed, have no blocks and do not rank.
    """
    blocks: dict[tuple[str, str, str, int], dict[str, float]] = {}
    for result in results:
        if result.method != "random":
            place = (result.space, result.data, result.judge, result.seed)
            blocks.setdefault(place, {})[result.method] = result.score
    counts = Counter(method for block in blocks.values() for method in block)
    methods = [method for method, count in counts.items() if count == max(counts.values())]
    whole = [block for block in blocks.values() if all(method in block for method in methods)]
    if len(methods) < 2 or len(whole) < 2:
        return None
    ranks = [stats.rankdata([-block[method] for method in methods]) for block in whole]
    means = {method: statistics.fmean(float(row[k]) for row in ranks) for k, method in enumerate(methods)}
    ordered = sorted(methods, key=means.__getitem__)
    k, n = len(methods), len(whole)
    quantile = float(stats.studentized_range.ppf(0.95, k, math.inf)) / math.sqrt(2)
    return Ranks(
        methods=tuple(ordered),
        ranks=tuple(means[method] for method in ordered),
        blocks=n,
        difference=quantile * math.sqrt(k * (k + 1) / (6 * n)),
        p_value=_friedman(ranks, k),
    )


def _friedman(ranks: Sequence[Sequence[float]], k: int) -> float:
    if k > 2 and any(len(set(map(float, row))) > 1 for row in ranks):
        return float(stats.friedmanchisquare(*zip(*ranks, strict=True)).pvalue)
    return math.nan


def to_csv(records: Sequence[Result] | Sequence[Point] | Sequence[Row]) -> str:
    """Return records as CSV with a header, an empty cell where there is no value."""
    text = io.StringIO()
    if records:
        writer = csv.DictWriter(text, [each.name for each in fields(records[0])], lineterminator="\n")
        writer.writeheader()
        for record in records:
            values = asdict(record)
            writer.writerow({name: _cell(value) for name, value in values.items()})
    return text.getvalue()


def _cell(value: Any) -> Any:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else value


def from_csv(text: str) -> list[Result]:
    """Read results that `to_csv` wrote.

    Raises:
        DataError: A row is broken.
    """
    kinds = get_type_hints(Result)
    results = []
    for row in csv.DictReader(io.StringIO(text)):
        try:
            results.append(Result(**{name: _read(kinds[name], row[name]) for name in kinds}))
        except (KeyError, ValueError, TypeError) as error:
            raise DataError(f"A row of results is broken ({shown(row)}): {error}. Take an intact copy.") from None
    return results


def _read(kind: Any, cell: str) -> Any:
    if kind is str:
        return cell
    if kind in (int, float):
        return kind(cell)
    return None if cell == "" else int(cell) if kind == int | None else float(cell)


def to_markdown(rows: Sequence[Row]) -> str:
    """Return a table for each space, data set and judge, methods by their mean, the best first."""
    parts = []
    for place in dict.fromkeys((row.space, row.data, row.judge) for row in rows):
        own = sorted((r for r in rows if (r.space, r.data, r.judge) == place), key=lambda row: -row.mean)
        lines = [f"### {place[0]}, {place[1]}, judged by {place[2]}", ""]
        lines += [_line(HEAD), _line(["---"] + ["---:"] * (len(HEAD) - 1))]
        lines += [_line(cells_of(row)) for row in own]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


HEAD = (
    "method", "n", "mean %", "± sd", "95 % interval", "worst", "best", "gain over random", "agreement",
    "search min", "train min", "parameters",
)  # fmt: skip


def cells_of(row: Row) -> list[str]:
    """Return a row's cells as text, in the order of the table's head."""
    interval = "" if math.isnan(row.low) else f"{row.low:.2f} to {row.high:.2f}"
    return [
        row.method,
        str(row.n),
        f"{row.mean:.2f}",
        _text(row.deviation),
        interval,
        f"{row.worst:.2f}",
        f"{row.best:.2f}",
        "" if math.isnan(row.gain) else f"{row.gain:+.2f}",
        _text(row.agreement),
        _text(row.search_minutes),
        _text(row.train_minutes),
        "" if math.isnan(row.parameters) else f"{row.parameters:,.0f}",
    ]


def _text(value: float, digits: int = 2) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
