"""Pictures of a study: every seed as a dot, mean ranks, scores over epochs and over time."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from archgrad.report.charts import Series, format_value, line_chart, nice_ticks
from archgrad.report.pictures import slug
from archgrad.report.scene import SERIES, Box, Curve, Item, Label, Picture, Scene, shorten
from archgrad.study.judging import Point, Result
from archgrad.study.summary import Ranks, Row

__all__ = ["course_pictures", "rank_picture", "seed_picture"]

_WIDTH, _LEFT, _RIGHT, _ROW = 640.0, 190.0, 24.0, 24.0
_SMALL = 12.0
_MOMENTS = 25


@dataclass(frozen=True, kw_only=True)
class _Strip:
    """One row of a picture: a name, a bar, a line at the middle, and dots with what they say."""

    name: str
    low: float
    middle: float
    high: float
    dots: tuple[tuple[float, str], ...] = ()


def seed_picture(rows: Sequence[Row], results: Sequence[Result]) -> Picture:
    """Draw every score of each method as a dot, and the mean with its 95 % interval as a bar; methods by their mean.

    Args:
        rows: Of one space, data set and judge.
        results: Of the same.
    """
    first = rows[0]
    strips = [
        _Strip(
            name=row.method,
            low=row.low,
            middle=row.mean,
            high=row.high,
            dots=tuple(
                (result.score, f"{row.method}, seed {result.seed}: {row.text(result.score, unit=True)}")
                for result in results
                if result.method == row.method
            ),
        )
        for row in sorted(rows, key=lambda row: -row.merit(row.mean))
    ]
    scores = [result.score for result in results]
    title = f"Every seed: {first.place.name}"
    told = "; ".join(f"{row.method} {row.text(row.mean, unit=True)}, n = {row.n}" for row in rows)
    ticks = nice_ticks(min(scores), max(scores))  # an interval of two seeds may be wider than all accuracies
    return Picture(
        slug=f"seeds-{slug(f'{first.space}-{first.data}-{first.judge}')}",
        title=title,
        caption="Dots: seeds. Line: mean. Bar: 95 % interval of the mean.",
        wide=_strips(title, strips, ticks, axis=first.axis, told=told),
    )


def rank_picture(ranks: Ranks, name: str = "mean-ranks") -> Picture:
    """Draw each mean rank with a bar as long as the critical difference: bars that do not overlap differ.

    Args:
        ranks: Of at least two methods.
        name: Of the picture, among those of the page.
    """
    strips = [
        _Strip(name=method, low=rank - ranks.difference / 2, middle=rank, high=rank + ranks.difference / 2)
        for method, rank in zip(ranks.methods, ranks.ranks, strict=True)
    ]
    title = f"Mean rank over {ranks.blocks} blocks"
    told = ", ".join(f"{method} {rank:.2f}" for method, rank in zip(ranks.methods, ranks.ranks, strict=True))
    return Picture(
        slug=name,
        title=title,
        caption=f"1 is best. Methods whose bars overlap may rank differently by chance: the critical difference of "
        f"Nemenyi's test at 5 % is {ranks.difference:.2f}.",
        wide=_strips(title, strips, [float(k) for k in range(1, len(strips) + 1)], axis="mean rank", told=told),
    )


def _strips(title: str, strips: Sequence[_Strip], ticks: Sequence[float], *, axis: str, told: str) -> Scene:
    left, right, top = _LEFT, _WIDTH - _RIGHT, 34.0
    bottom = top + _ROW * len(strips)

    def x(value: float) -> float:
        return left + (right - left) * min(max((value - ticks[0]) / (ticks[-1] - ticks[0]), 0.0), 1.0)

    shown = shorten(title, size=13.0, width=600.0)
    items: list[Item] = [Label(x=4.0, y=14.0, text=shown, size=13.0, anchor="start", bold=True)]
    for tick in ticks:
        items.append(Curve(commands=(("M", x(tick), top), ("L", x(tick), bottom)), stroke="grid"))
        items.append(Label(x=x(tick), y=bottom + 13.0, text=format_value(tick, ticks=ticks), size=_SMALL, fill="muted"))
    for k, strip in enumerate(strips):
        y = top + _ROW * (k + 0.5)
        name = shorten(strip.name, size=_SMALL, width=left - 20.0)
        items.append(Label(x=left - 10.0, y=y, text=name, size=_SMALL, anchor="end", title=strip.name))
        if math.isfinite(strip.low):
            bar = (("M", x(strip.low), y), ("L", x(strip.high), y))
            items.append(Curve(commands=bar, stroke="c1", width=6.0, opacity=0.25))
        for value, said in strip.dots:
            items.append(_dot(x(value), y, said))
        line = (("M", x(strip.middle), y - 7.0), ("L", x(strip.middle), y + 7.0))
        items.append(Curve(commands=line, stroke="c1", width=2.5))
    items.append(Label(x=(left + right) / 2, y=bottom + 28.0, text=axis, size=_SMALL, fill="muted"))
    return Scene(width=_WIDTH, height=bottom + 40.0, items=tuple(items), name=f"{title}: {told}")


def _dot(x: float, y: float, said: str) -> Box:
    return Box(x=x - 2.5, y=y - 2.5, width=5.0, height=5.0, radius=2.5, fill="muted", opacity=0.7, title=said)


def course_pictures(points: Sequence[Point]) -> list[Picture]:
    """Draw the mean score of each method over epochs and over minutes, for each space, data set and judge.

    The band is one sample standard deviation over seeds. Over minutes each search counts with the architecture that it
    has at that moment, from the moment on when all seeds of the method have one.
    """
    pictures = []
    for place in dict.fromkeys(point.place for point in points):
        own = [point for point in points if point.place == place]
        name = place.name
        epochs = sorted({point.epoch for point in own})
        ends = [max(p.seconds for p in own if p.method == m) for m in dict.fromkeys(p.method for p in own)]
        last = max((end for end in ends if math.isfinite(end)), default=0.0)
        moments = [last * (k + 1) / _MOMENTS for k in range(_MOMENTS)]
        over_epochs, over_time = [], []
        for k, method in enumerate(dict.fromkeys(point.method for point in own)):
            role = SERIES[k % len(SERIES)]
            seeds = [
                [p for p in own if p.method == method and p.seed == seed]
                for seed in dict.fromkeys(p.seed for p in own if p.method == method)
            ]
            over_epochs.append(_series(method, role, [[_at_epoch(one, e) for one in seeds] for e in epochs]))
            over_time.append(_series(method, role, [[_at_time(one, t) for one in seeds] for t in moments]))
        pictures.append(
            _chart(f"{place.short} over epochs: {name}", [epoch + 1 for epoch in epochs], over_epochs, "epoch")
        )
        if last > 0:
            pictures.append(
                _chart(f"{place.short} over minutes: {name}", [round(t / 60, 3) for t in moments], over_time, "minutes")
            )
    return pictures


def _chart(title: str, at: Sequence[float], series: Sequence[Series], axis: str) -> Picture:
    return Picture(slug=slug(title), title=title, caption="", wide=line_chart(title, at, series, axis=axis))


def _at_epoch(search: Sequence[Point], epoch: int) -> float:
    return next((point.score for point in search if point.epoch == epoch), math.nan)


def _at_time(search: Sequence[Point], seconds: float) -> float:
    done = [point for point in search if point.seconds <= seconds]
    return max(done, key=lambda point: point.epoch).score if done else math.nan


def _series(name: str, role: str, columns: Sequence[Sequence[float]]) -> Series:
    """Of each moment's scores, one a seed: their mean and one standard deviation, where all seeds have one."""
    means, low, high = [], [], []
    for scores in columns:
        whole = all(map(math.isfinite, scores))
        mean = statistics.fmean(scores) if whole else math.nan
        spread = statistics.stdev(scores) if whole and len(scores) > 1 else 0.0
        means.append(mean)
        low.append(mean - spread)
        high.append(mean + spread)
    return Series(
        name=f"{name}, n = {len(columns[0])}", values=tuple(means), role=role, low=tuple(low), high=tuple(high)
    )
