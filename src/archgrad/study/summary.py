"""From scores to rows of a table: mean, spread and interval of every method, and how it ranks."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

from archgrad.decision import freeze_decisions, taken_candidates
from archgrad.study.columns import is_cost
from archgrad.study.judging import Result
from archgrad.study.place import Place

__all__ = ["Ranks", "Row", "agreed", "agreement", "mean_ranks", "rows_of", "unranked"]

_LARGEST = (("parameters", "most-parameters"), ("multiply_adds", "most-multiply-adds"))


@dataclass(frozen=True, kw_only=True)
class Row(Place):
    """All seeds of one method under one judge; its scores in the place's unit.

    Attributes:
        method: Name of a method or a baseline.
        n: Number of scores.
        mean: Of the scores.
        deviation: Sample standard deviation; NaN for one score.
        low: Lower end of the 95 % interval of the mean (Student's t), of percent no less than 0; NaN for one score.
        high: Its upper end, of percent 100 at most.
        worst: The highest score where the lowest is best.
        best: The lowest score where the lowest is best.
        gain: How much better the mean is than that of the random architectures, of those that keep the same budget
            where there are some; NaN without any.
        regret: How much worse the mean is than the best score that a table has of networks that keep the budget, or of
            all; NaN where no table tells.
        keeping: Number of scores whose networks keep the budget; NaN where no table tells.
        agreement: Mean over the decisions of the share of seeds that took the commonest one; NaN for one score.
        search_minutes: Mean; NaN where nothing was searched.
        selection_minutes: Mean of what followed the search to select; NaN where nothing was searched.
        train_minutes: Mean; NaN where nothing was trained.
        parameters: Mean; NaN where it is not known.
    """

    method: str
    n: int
    mean: float
    deviation: float
    low: float
    high: float
    worst: float
    best: float
    gain: float
    regret: float
    keeping: float
    agreement: float
    search_minutes: float
    selection_minutes: float
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
    groups: dict[Place, dict[str, list[Result]]] = {}
    for result in results:
        group = groups.setdefault(result.place, {})
        group.setdefault(result.method, []).append(result)
    rows = []
    for place, methods in groups.items():
        baselines = [found for found in methods.values() if found[0].drawn]
        means = {found[0].budget: statistics.fmean(result.score for result in found) for found in baselines}
        random = methods.get("random", [])
        for attribute, name in _LARGEST:
            sized = [result for result in random if getattr(result, attribute) is not None]
            if len(sized) > 1:
                methods[name] = [max(sized, key=lambda result: getattr(result, attribute))]
        for method, found in methods.items():
            middle = means.get(found[0].budget, means.get("", math.nan))
            rows.append(_row(place, method, found, middle))
    return rows


def _row(place: Place, method: str, results: Sequence[Result], random: float) -> Row:
    scores = [result.score for result in results]
    mean, n = statistics.fmean(scores), len(scores)
    deviation = statistics.stdev(scores) if n > 1 else math.nan
    half = float(stats.t.ppf(0.975, n - 1)) * deviation / math.sqrt(n) if n > 1 else math.nan
    best = next((result.attainable for result in results if result.attainable is not None), math.nan)
    over = [result.over for result in results if result.over is not None]
    least, most = (0.0, 100.0) if place.unit == "%" else (-math.inf, math.inf)
    return Row(
        **vars(place),
        method=method,
        n=n,
        mean=mean,
        deviation=deviation,
        low=mean - half if math.isnan(half) else max(mean - half, least),
        high=mean + half if math.isnan(half) else min(mean + half, most),
        worst=min(scores, key=place.merit),
        best=max(scores, key=place.merit),
        gain=place.merit(mean - random) + 0.0,  # no gain is 0, not -0
        regret=place.merit(best - mean) + 0.0,
        keeping=sum(share <= 0 for share in over) if over else math.nan,
        agreement=agreement([result.choices for result in results]),
        search_minutes=_mean([result.search_seconds for result in results]) / 60,
        selection_minutes=_mean([result.selection_seconds for result in results]) / 60,
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
    return _mean([count / len(choices) for _, count in agreed(choices).values()])


def agreed(choices: Sequence[str]) -> dict[str, tuple[str, int]]:
    """Return by row of alphas what most architectures took there, and how many of them; the most agreed first.

    Args:
        choices: Decisions of each as JSON.
    """
    taken: dict[str, Counter[str]] = {}
    for text in choices:
        for label, candidates in taken_candidates(freeze_decisions(json.loads(text))).items():
            taken.setdefault(label, Counter())[", ".join(sorted(candidates))] += 1
    common = {label: counter.most_common(1)[0] for label, counter in taken.items()}
    return dict(sorted(common.items(), key=lambda each: (-each[1][1], each[0])))


def mean_ranks(results: Sequence[Result]) -> Ranks | None:
    """Return how the methods rank, over the blocks in which all of them have a score; None for less than two of each.

    Random architectures, and baselines whose score does not depend on a seed, have no blocks and do not rank; nobody
    ranks by the costs that a table tells.
    """
    blocks: dict[tuple[Place, int], dict[str, float]] = {}
    for result in results:
        if not result.drawn and not is_cost(result.metric):
            blocks.setdefault((result.place, result.seed), {})[result.method] = result.merit(result.score)
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


def unranked(results: Sequence[Result], ranks: Ranks) -> list[str]:
    """Return the methods that have scores but no rank, the random architectures aside."""
    return [name for name in dict.fromkeys(r.method for r in results if not r.drawn) if name not in ranks.methods]


def _friedman(ranks: Sequence[Sequence[float]], k: int) -> float:
    if k > 2 and any(len(set(map(float, row))) > 1 for row in ranks):
        return float(stats.friedmanchisquare(*zip(*ranks, strict=True)).pvalue)
    return math.nan
