"""What methods cost and what they score: which of them nothing else beats in both."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from archgrad.report.charts import format_value, nice_ticks
from archgrad.report.pictures import slug
from archgrad.report.scene import Box, Command, Curve, Item, Label, Picture, Scene, shorten
from archgrad.study.budgets import TableFront
from archgrad.study.judging import Result
from archgrad.study.place import Place

__all__ = ["Tradeoff", "front", "pareto_picture", "tradeoffs"]

_WIDTH, _HEIGHT, _SMALL = 640.0, 340.0, 12.0


@dataclass(frozen=True, kw_only=True)
class Tradeoff:
    """What a method's networks cost, and what they score at one place.

    Attributes:
        method: Name of a method or a baseline.
        cost: Mean over seeds.
        score: Mean over seeds, in the place's unit.
        seeds: (cost, score) of each.
        drawn: Whether they are random architectures, which do not compete.
    """

    method: str
    cost: float
    score: float
    seeds: tuple[tuple[float, float], ...]
    drawn: bool = False


def tradeoffs(results: Sequence[Result]) -> dict[tuple[Place, str], list[Tradeoff]]:
    """Return by place and cost what each method reaches, the random architectures among them.

    The costs are those of retrained networks, parameters and multiply-adds; of tables, the columns that are costs.
    Costs and places where all networks cost the same are left out.
    """
    pairs: dict[tuple[Place, str], dict[str, list[tuple[float, float]]]] = {}
    costs_of = _of_tables(results)
    for result in results:
        own: dict[str, float | None] = {"parameters": result.parameters, "multiply-adds": result.multiply_adds}
        if result.best_is == "highest":
            own |= costs_of.get((result.space, result.data, result.method, result.seed), {})
        for cost, value in own.items():
            if value is not None:
                methods = pairs.setdefault((result.place, cost), {})
                methods.setdefault(result.method, []).append((float(value), result.score))
    drawn = {result.method for result in results if result.drawn}
    return {
        key: [_mean(method, found, drawn) for method, found in methods.items()]
        for key, methods in pairs.items()
        if len({value for found in methods.values() for value, _ in found}) > 1
    }


def _of_tables(results: Sequence[Result]) -> dict[tuple[str, str, str, int], dict[str, float]]:
    """Return by space, data, method and seed the costs that a table tells."""
    costs: dict[tuple[str, str, str, int], dict[str, float]] = {}
    for result in results:
        if result.best_is == "lowest" and result.train_seconds is None:
            key = (result.space, result.data, result.method, result.seed)
            costs.setdefault(key, {})[result.quantity] = result.score
    return costs


def _mean(method: str, seeds: Sequence[tuple[float, float]], drawn: Collection[str]) -> Tradeoff:
    cost, score = (statistics.fmean(values) for values in zip(*seeds, strict=True))
    return Tradeoff(method=method, cost=cost, score=score, seeds=tuple(seeds), drawn=method in drawn)


def front(place: Place, found: Sequence[Tradeoff]) -> list[Tradeoff]:
    """Return the methods than which no other costs less and scores as well or better in the mean, the cheapest first.

    Args:
        place: Says which score is best.
        found: Of the place; random architectures do not compete.
    """
    best: list[Tradeoff] = []
    for each in sorted(found, key=lambda each: (each.cost, -place.merit(each.score))):
        if not each.drawn and (not best or place.merit(each.score) > place.merit(best[-1].score)):
            best.append(each)
    return best


def pareto_picture(place: Place, cost: str, found: Sequence[Tradeoff], of_table: TableFront | None = None) -> Picture:
    """Draw the score of each network over its cost, the means of methods, and a line through those on the front.

    Args:
        place: Of the scores.
        cost: What is on the other axis.
        found: What methods reach there.
        of_table: The front of all networks of a table, drawn behind as steps, as far as it is in the range of the rest.
    """
    best = front(place, found)
    points = [point for each in found for point in each.seeds]
    steps = _steps(of_table, points)
    points += steps
    xs, ys = (nice_ticks(min(values), max(values)) for values in zip(*points, strict=True))
    left, right, top, bottom = 58.0, _WIDTH - 24.0, 30.0, _HEIGHT - 40.0

    def at(point: tuple[float, float]) -> tuple[float, float]:
        x = left + (right - left) * (point[0] - xs[0]) / (xs[-1] - xs[0])
        return x, bottom - (bottom - top) * (point[1] - ys[0]) / (ys[-1] - ys[0])

    title = f"{place.metric.replace('_', ' ').capitalize()} over {cost}: {place.name}"
    shown = shorten(title, size=13.0, width=_WIDTH - 20.0)
    items: list[Item] = [Label(x=4.0, y=12.0, text=shown, size=13.0, anchor="start", bold=True)]
    for tick in ys:
        y = at((xs[0], tick))[1]
        items.append(Curve(commands=(("M", left, y), ("L", right, y)), stroke="grid"))
        text = format_value(tick, ticks=ys)
        items.append(Label(x=left - 6.0, y=y, text=text, size=_SMALL, anchor="end", fill="muted"))
    for tick in xs:
        text = format_value(tick, ticks=xs)
        items.append(Label(x=at((tick, 0.0))[0], y=bottom + 13.0, text=text, size=_SMALL, fill="muted"))
    items.append(Label(x=(left + right) / 2, y=bottom + 29.0, text=cost, size=_SMALL, fill="muted"))
    items.append(Label(x=10.0, y=(top + bottom) / 2, text=place.axis, size=_SMALL, fill="muted", turned=True))
    if steps:
        path: list[Command] = [("L" if k else "M", *at(point)) for k, point in enumerate(steps)]
        items.append(Curve(commands=tuple(path), stroke="c3", width=1.5))
    line: list[Command] = [("L" if k else "M", *at((each.cost, each.score))) for k, each in enumerate(best)]
    items.append(Curve(commands=tuple(line), stroke="c1", width=2.0))
    for each in found:
        for point in each.seeds:
            items.append(_dot(at(point), 2.5, "muted", 0.5, _said(place, each.method, cost, point)))
    for each in found:
        if not each.drawn:
            middle, on_it = at((each.cost, each.score)), each in best
            said = _said(place, f"{each.method}, mean", cost, (each.cost, each.score))
            items.append(_dot(middle, 4.5, "c1" if on_it else "c2", 1.0, said))
            items += [Label(x=middle[0], y=middle[1] - 11.0, text=shorten(each.method, size=_SMALL, width=150.0),
                            size=_SMALL)] if on_it else []  # fmt: skip
    told = "; ".join(f"{each.method} {place.text(each.score, unit=True)} at {each.cost:,.6g}" for each in best)
    return Picture(
        slug=f"front-{slug(f'{cost}-{place.space}-{place.data}-{place.judge}')}",
        title=title,
        caption="Small: networks of single seeds, also random ones. Large: means of methods. Line: those that no other "
        "method beats in both score and cost." + (" Steps: the best of all networks of the table." if steps else ""),
        wide=Scene(width=_WIDTH, height=_HEIGHT, items=tuple(items), name=f"{title}. On the front: {told}"),
    )


def _steps(of_table: TableFront | None, drawn: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The best score at each cost, between the lowest score and the highest cost of what is drawn."""
    if of_table is None:
        return []
    dearest, lowest = max(cost for cost, _ in drawn), min(score for _, score in drawn)
    steps: list[tuple[float, float]] = []
    for cost, score in zip(of_table.costs, of_table.scores, strict=True):
        if cost <= dearest and score >= lowest:
            steps += [*([(cost, steps[-1][1])] if steps else []), (cost, score)]
    return [*steps, (dearest, steps[-1][1])] if steps else []


def _said(place: Place, name: str, cost: str, point: tuple[float, float]) -> str:
    return f"{name}: {place.text(point[1], unit=True)}, {point[0]:,.6g} {cost}"


def _dot(at: tuple[float, float], radius: float, fill: str, opacity: float, title: str) -> Box:
    size = 2 * radius
    return Box(
        x=at[0] - radius, y=at[1] - radius, width=size, height=size, radius=radius, fill=fill, opacity=opacity,
        title=title,
    )  # fmt: skip
