"""Curves over epochs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from archgrad.report.scene import Box, Command, Curve, Group, Item, Label, Scene, clean_text, shorten, text_width

__all__ = ["Series", "format_value", "line_chart", "nice_ticks", "plot_marks"]

WIDTH, HEIGHT = 400.0, 236.0
_LEFT, _RIGHT, _BOTTOM = 50.0, 14.0, 34.0
_SMALL = 12.0


@dataclass(frozen=True, kw_only=True)
class Series:
    """One curve."""

    name: str
    values: tuple[float, ...]
    """One value an epoch; NaN where there is none."""
    role: str
    low: tuple[float, ...] = ()
    """Lower edge of the band around the curve; empty for no band."""
    high: tuple[float, ...] = ()
    faint: bool = False
    """A run behind a mean: thin, and not in the legend."""


def line_chart(
    title: str,
    epochs: Sequence[float],
    series: Sequence[Series],
    *,
    percent: bool = False,
    zero: bool = False,
    axis: str = "epoch",
) -> Scene:
    """Draw curves over the epochs, on a logarithmic axis where positive values span more than two decades.

    Args:
        title: What the axis measures, with its unit.
        epochs: Ascending; one for each value of each series.
        series: The curves; their gaps are where values are not finite.
        percent: Write a share such as 0.5 as 50 %.
        zero: Begin a linear axis at 0, for amounts and counts.
        axis: What the epochs are, if they are something else.
    """
    named = [one for one in series if not one.faint]
    legend, top = _legend(named, percent)
    shown = [v for one in series for v in (*one.values, *one.low, *one.high) if math.isfinite(v)]
    log = bool(shown) and not zero and min(shown) > 0 and max(shown) / min(shown) > 100
    if log:
        low, high = min(shown) / 1.15, max(shown) * 1.15
        ticks = [tick for tick in _log_ticks(shown) if low <= tick <= high]
    else:
        least = 0.0 if zero and min(shown, default=0.0) > 0 else min(shown, default=0.0)
        most = max(shown, default=1.0)
        ticks = nice_ticks(least, 1.0 if zero and most == least == 0.0 else most)
        low, high = ticks[0], ticks[-1]
        if zero and all(value == int(value) for value in shown):
            ticks = [tick for tick in ticks if tick == int(tick)]
    first, last = (epochs[0], epochs[-1]) if epochs else (0, 1)
    written = [format_value(tick, percent=percent, ticks=ticks) for tick in ticks]
    left = max(_LEFT, 8.0 + max((text_width(text, size=_SMALL) for text in written), default=0.0))
    right, bottom = WIDTH - _RIGHT, HEIGHT - _BOTTOM

    def x(epoch: float) -> float:
        return left + (right - left) * ((epoch - first) / (last - first) if last > first else 0.5)

    def y(value: float) -> float:
        share = math.log(value / low) / math.log(high / low) if log else (value - low) / (high - low)
        return bottom - (bottom - top) * share

    items: list[Item] = [Label(x=4.0, y=12.0, text=clean_text(title), size=13.0, anchor="start", bold=True), *legend]
    for tick, text in zip(ticks, written, strict=True):
        items.append(Curve(commands=(("M", left, y(tick)), ("L", right, y(tick))), stroke="grid"))
        items.append(Label(x=left - 6.0, y=y(tick), text=text, size=_SMALL, anchor="end", fill="muted"))
    for tick in _epoch_ticks(first, last):
        items.append(Label(x=x(tick), y=bottom + 13.0, text=f"{tick:.12g}", size=_SMALL, fill="muted"))
    items.append(Label(x=(left + right) / 2, y=bottom + 27.0, text=axis, size=_SMALL, fill="muted"))
    plot: list[Item] = [Box(x=left, y=top, width=right - left, height=bottom - top, fill="surface", opacity=0.0)]
    if not shown:
        plot.append(Label(x=(left + right) / 2, y=(top + bottom) / 2, text="no values yet", fill="muted"))
    for one in sorted(series, key=lambda one: not one.faint):
        plot += _curve(one, [x(epoch) for epoch in epochs], y, percent)
    marks = plot_marks(left, top, right - left, bottom - top, first, last) | {"data-kind": "curve"}
    items.append(Group(items=tuple(plot), marks=marks | {"data-epochs": ",".join(map(str, epochs))}))
    finals = ", ".join(f"{one.name}: {_final(one, percent)}" for one in named)
    return Scene(width=WIDTH, height=HEIGHT, items=tuple(items), name=f"{title} over epochs; last: {finals}")


def plot_marks(x: float, y: float, width: float, height: float, first: float, last: float) -> dict[str, str]:
    """Return what the page's script needs to find an epoch in a plot: its frame, and the epochs at its sides."""
    numbers = {"x": x, "y": y, "w": width, "h": height, "first": first, "last": last}
    return {"class": "plot"} | {f"data-{name}": f"{value:g}" for name, value in numbers.items()}


def _curve(one: Series, xs: Sequence[float], y: object, percent: bool) -> list[Item]:
    assert callable(y)
    items: list[Item] = []
    if one.low and one.high:
        good = [i for i in range(len(xs)) if math.isfinite(one.low[i]) and math.isfinite(one.high[i])]
        if len(good) > 1:
            points = [(xs[i], y(one.high[i])) for i in good] + [(xs[i], y(one.low[i])) for i in reversed(good)]
            items.append(Curve(commands=_polygon(points), stroke=None, fill=one.role, opacity=0.16))
    commands: list[Command] = []
    dots: list[Item] = []
    previous = False
    for i, (place, value) in enumerate(zip(xs, one.values, strict=True)):
        if not math.isfinite(value):
            previous = False
            continue
        commands.append(("L" if previous else "M", place, y(value)))
        following = i + 1 < len(xs) and math.isfinite(one.values[i + 1])
        if not previous and not following and not one.faint:  # a line of one point would not be seen
            dots.append(Box(x=place - 2.5, y=y(value) - 2.5, width=5.0, height=5.0, radius=2.5, fill=one.role))
        previous = True
    if commands:
        values = ",".join(format_value(v, percent=percent) if math.isfinite(v) else "" for v in one.values)
        marks = {"class": "series", "data-name": one.name, "data-values": values}
        items.append(
            Curve(
                commands=tuple(commands),
                stroke=one.role,
                width=1.0 if one.faint else 2.0,
                opacity=0.45 if one.faint else 1.0,
                marks={} if one.faint else marks,
            )
        )
    return items + dots


def _polygon(points: Sequence[tuple[float, float]]) -> tuple[Command, ...]:
    return (("M", *points[0]), *(("L", *point) for point in points[1:]), ("Z",))


def _legend(series: Sequence[Series], percent: bool) -> tuple[list[Item], float]:
    """A swatch, name and last value for each curve; and where the plot may begin."""
    items: list[Item] = []
    x, y = 4.0, 33.0
    for one in series:
        short = shorten(one.name, size=_SMALL, width=240.0)
        text = f"{short}: {_final(one, percent)}"
        width = 22.0 + text_width(text, size=_SMALL)
        if x > 4.0 and x + width > WIDTH - 6.0:
            x, y = 4.0, y + 17.0
        items.append(Curve(commands=(("M", x, y), ("L", x + 16.0, y)), stroke=one.role, width=2.5))
        marks = {"class": "legend", "data-name": one.name, "data-short": short}
        items.append(Label(x=x + 21.0, y=y, text=text, size=_SMALL, anchor="start", fill="muted", marks=marks))
        x += width + 16.0
    return items, y + 16.0


def _final(one: Series, percent: bool) -> str:
    finite = [value for value in one.values if math.isfinite(value)]
    return format_value(finite[-1], percent=percent) if finite else "–"


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return round values around [low, high], about `count` of them."""
    if not high - low > max(1e-6 * max(abs(low), abs(high)), 1e-280):  # flat but for rounding: nothing to tell apart
        pad = abs(low) * 0.1 if abs(low) > 1e-280 else 1.0  # the steps of smaller numbers could not be told apart
        low, high = low - pad, high + pad
    raw = (high - low) / max(count - 1, 1)
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * magnitude for factor in (1.0, 2.0, 2.5, 5.0, 10.0) if factor * magnitude >= raw * 0.999)
    start, end = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{k * step:.12g}") for k in range(start, end + 1)]


def _log_ticks(shown: Sequence[float]) -> list[float]:
    start, end = math.floor(math.log10(min(shown))), math.ceil(math.log10(max(shown)))
    every = max(1, math.ceil((end - start) / 5))
    return [10.0**k for k in range(start, end + 1, every)]


def _epoch_ticks(first: float, last: float) -> list[float]:
    if last <= first:
        return [first]
    ticks = [tick for tick in nice_ticks(first, last, 6) if first <= tick <= last]
    return [tick for tick in ticks if tick == int(tick)] or ticks or [first, last]


def format_value(value: float, *, percent: bool = False, ticks: Sequence[float] = ()) -> str:
    """Return a number as short as its use allows: four figures, or what tells the ticks of an axis apart."""
    if percent:
        step = abs(ticks[1] - ticks[0]) * 100 if len(ticks) > 1 else 0.01
        digits = next((digits for digits in range(6) if abs(round(step, digits) - step) < 1e-6 * step), 6)
        return f"{100 * value:.{digits}f} %"
    if value != 0 and (abs(value) >= 1e5 or abs(value) < 1e-3):
        finest = min((abs(b - a) for a, b in itertools.pairwise(ticks)), default=0.0)
        exact = (d for d in range(12) if abs(float(f"{value:.{d}e}") - value) <= 1e-3 * finest)  # 2.5e5 is not 2e5
        mantissa, exponent = f"{value:.{next(exact, 0) if ticks else 2}e}".split("e")
        return f"{mantissa}e{int(exponent)}".replace("-", "−", 1 if value < 0 else 0)
    if len(ticks) > 1:  # as many decimals as tell the ticks apart
        step = min(abs(b - a) for a, b in itertools.pairwise(ticks))
        text = f"{value:.{max(0, -math.floor(math.log10(step) + 1e-9))}f}" if step < 1e-4 else f"{value:.6g}"
    else:
        text = f"{value:.6g}" if ticks else f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"
    return text.replace("-", "−")
