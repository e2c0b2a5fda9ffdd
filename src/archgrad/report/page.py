"""The whole page: one file that needs nothing else."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from importlib import resources

from archgrad.architecture import Architecture
from archgrad.report.charts import format_value
from archgrad.report.compare import Decisions, RunGroup, group_runs, kept_decisions, mean_and_spread
from archgrad.report.elements import details, edge_name, figure, grid, table
from archgrad.report.pictures import architecture_pictures
from archgrad.report.read import Run, flatten
from archgrad.report.scene import Picture
from archgrad.report.sections import run_status
from archgrad.report.svg import escape

__all__ = ["comparison_section", "page", "run_names"]

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
_RESULTS: tuple[tuple[str, str, bool], ...] = (
    ("test_accuracy", "test accuracy", True),
    ("valid_accuracy", "validation accuracy", True),
    ("train_accuracy", "train accuracy", True),
    ("test_loss", "test loss", False),
    ("valid_loss", "validation loss", False),
    ("train_loss", "train loss", False),
    ("alphas_entropy", "entropy of α", False),
    ("skip_connections", "skip connections", False),
)


def page(title: str, sections: Sequence[str], links: Sequence[tuple[str, str]]) -> str:
    """Return the HTML file.

    Args:
        title: Name of the page, escaped here.
        sections: The parts in order, HTML already.
        links: (id of a section, its name) for the navigation, where there are several.
    """
    style, dark, script = (_asset(name) for name in ("report.css", "dark.css", "report.js"))
    style += f"@media (prefers-color-scheme: dark) {{ :root:not([data-theme]) {{ {dark} }} }}\n"  # also without scripts
    style += f':root[data-theme="dark"] {{ {dark} }}\n'
    navigation = "".join(f'<a href="#{escape(target)}">{escape(name)}</a>' for target, name in links)
    navigation = f'<nav aria-label="Runs">{navigation}</nav>' if len(links) > 1 else ""
    return (
        "<!doctype html>\n"
        '<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(title)}</title><link rel="icon" href="data:,"><style>{style}</style></head><body>'
        f'<header><h1>archgrad report</h1><button type="button" id="theme">Dark mode</button>{navigation}</header>'
        f"<main>{''.join(sections)}</main>"
        "<footer><p>Made by archgrad from the files of the run; "
        "each picture lies as PNG and SVG in the run's folder report/.</p></footer>"
        f"<script>{script}</script></body></html>\n"
    )


def _asset(name: str) -> str:
    return resources.files("archgrad.report").joinpath("assets").joinpath(name).read_text(encoding="utf-8")


def run_names(runs: Sequence[Run]) -> list[str]:
    """Return a name for each run: its folder, with as many parents as tell it from the others."""
    parts = [run.path.resolve().parts for run in runs]
    names = []
    for index, own in enumerate(parts):
        depth = 1
        while depth < len(own) and any(o[-depth:] == own[-depth:] for i, o in enumerate(parts) if i != index):
            depth += 1
        names.append("/".join(own[-depth:]).lstrip("/"))
    return names


def comparison_section(runs: Sequence[Run], names: Sequence[str], pictures: Sequence[Picture]) -> str:
    """Return the section that puts runs side by side.

    Args:
        runs: At least two.
        names: One a run.
        pictures: Charts of all runs, as `comparison_pictures` returns them.
    """
    groups = group_runs(runs)
    parts = [
        '<section id="comparison" aria-labelledby="comparison-title">'
        f'<h2 id="comparison-title">Comparison of {len(runs)} runs</h2>',
        _results(runs, names),
    ]
    if any(len(group.indices) > 1 for group in groups):
        parts.append("<h3>Mean and spread over seeds</h3>" + _spread(runs, groups))
    if pictures:
        hint = (
            "Thick: the mean of runs that differ in nothing but their seed (in retrainings also in that of the search "
            "or draw that their architecture comes from); band: one standard deviation; thin: runs."
        )
        parts.append(f'<h3>Curves</h3><p class="hint">{hint}</p>' + grid([figure(picture) for picture in pictures]))
    parts += [_architectures(runs, names), _decisions(runs, names), "</section>"]
    return "".join(parts)


def _last(run: Run, column: str) -> float | None:
    value = run.summary.get(column, run.metrics.last(column))
    return float(value) if isinstance(value, (int, float)) else None


def _columns(runs: Sequence[Run]) -> list[tuple[str, str, bool]]:
    """Return (column, its name, whether it is a share) of what the runs have been measured by."""
    best = dict.fromkeys(run.best[0] for run in runs if run.best[0] not in ("accuracy", "loss"))
    of_tasks = [
        (f"{part}_{name}", f"{part} {name.replace('_', ' ')}", False) for name in best for part in ("test", "valid")
    ]
    return [each for each in (*of_tasks, *_RESULTS) if any(_last(run, each[0]) is not None for run in runs)]


def _results(runs: Sequence[Run], names: Sequence[str]) -> str:
    columns = _columns(runs)
    rows = []
    for index, (run, name) in enumerate(zip(runs, names, strict=True), start=1):
        cells = [f'<a href="#run-{index}">{escape(name)}</a>', escape(run_status(run)[1])]
        cells.append(escape(run.environment.get("seed", flatten(run.config).get("seed", "–"))))
        for column, _, percent in columns:
            value = _last(run, column)
            cells.append("–" if value is None else format_value(value, percent=percent))
        rows.append(cells)
    return table(["run", "state", "seed", *(text for _, text, _ in columns)], rows, name="Last values of each run")


def _spread(runs: Sequence[Run], groups: Sequence[RunGroup]) -> str:
    columns = _columns(runs)
    rows = []
    for group in groups:
        cells = [escape(group.name), str(len(group.indices))]
        for column, _, percent in columns:
            found = mean_and_spread([_last(runs[i], column) for i in group.indices])
            if found is None:
                cells.append("–")
                continue
            mean, deviation, _ = found
            cells.append(_with_spread(mean, deviation, percent=percent))
        rows.append(cells)
    name = "Mean ± sample standard deviation of the last values"
    return table(["settings", "runs", *(text for _, text, _ in columns)], rows, name=name)


def _with_spread(mean: float, deviation: float | None, *, percent: bool) -> str:
    """The mean, with as many decimals as two figures of the deviation have."""
    if deviation is None or deviation <= 0:
        return format_value(mean, percent=percent) + ("" if deviation is None else " ± 0")
    factor, unit = (100, " %") if percent else (1, "")
    digits = max(0, 1 - math.floor(math.log10(deviation * factor)))
    return f"{mean * factor:.{digits}f} ± {deviation * factor:.{digits}f}{unit}"


def _architectures(runs: Sequence[Run], names: Sequence[str]) -> str:
    """The derived cells of all runs next to each other."""
    by_slug: dict[str, list[str]] = {}
    titles: dict[str, str] = {}
    shared: dict[Architecture, list[int]] = {}
    for index, run in enumerate(runs):
        if run.architecture:  # a search and its retrainings have one cell, which is drawn once
            shared.setdefault(run.architecture, []).append(index)
    for indices in shared.values():
        run = next((runs[i] for i in indices if runs[i].frames and runs[i].command != "retrain"), runs[indices[0]])
        name = ", ".join(names[i] for i in indices)
        probabilities = run.frames[-1].probabilities if run.frames and run.command != "retrain" else {}
        for picture in architecture_pictures(run.architecture, probabilities) if run.architecture else ():
            titles[picture.slug] = picture.title
            shown = dataclasses.replace(picture, title=f"{picture.title}, {name}", caption="")
            by_slug.setdefault(picture.slug, []).append(figure(shown, head=name))
    parts = []
    for slug, figures in by_slug.items():
        parts.append(f'<h3>{escape(titles[slug])}</h3><div class="pair compare">{"".join(figures)}</div>')
    return "".join(parts)


def _decisions(runs: Sequence[Run], names: Sequence[str]) -> str:
    """Tables of what all runs decided alike, and of what only some did."""
    decided = [i for i, run in enumerate(runs) if run.architecture]
    if len(decided) < 2:
        return ""
    decisions = kept_decisions([runs[i] for i in decided])
    common = [d for d in decisions if all(d.kept)]
    some = [d for d in decisions if not all(d.kept)]
    head = ["choice", "edge", "taken"]
    if not any(decision.edge for decision in decisions):
        head.remove("edge")

    def first_cells(decision: Decisions) -> list[str]:
        edge = [edge_name(*decision.edge) if decision.edge else ""] if "edge" in head else []
        return [escape(decision.choice), *edge, escape(decision.taken)]

    def marks(decision: Decisions) -> list[str]:
        return ['<span class="yes">yes</span>' if kept else "–" for kept in decision.kept]

    parts = [
        "<h3>Common and differing decisions</h3>",
        f'<p class="hint">{len(common)} of {len(decisions)} decisions (edges with their operation, or chosen '
        f"candidates) are common to all {len(decided)} runs.</p>",
    ]
    if common:
        rows = [first_cells(decision) for decision in common]
        content = table(head, rows, name="Common decisions")
        parts.append(details(f"Common to all runs ({len(common)})", content, opened=True))
    if some:
        rows = [[*first_cells(decision), *marks(decision)] for decision in some]
        content = table([*head, *(names[i] for i in decided)], rows, name="Differing decisions")
        parts.append(details(f"Taken by some runs ({len(some)})", content, opened=True))
    return "".join(parts)
