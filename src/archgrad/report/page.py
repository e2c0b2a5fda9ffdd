"""The whole page: one file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources

from archgrad.report.charts import format_value
from archgrad.report.compare import RunGroup, group_runs, kept_decisions, mean_and_spread
from archgrad.report.elements import details, figure, grid, table
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
        title: Heading, escaped here.
        sections: The parts in order, HTML already.
        links: (id of a section, its name) for the navigation, where there are several.
    """
    style, script = (_asset(name) for name in ("report.css", "report.js"))
    navigation = "".join(f'<a href="#{escape(target)}">{escape(name)}</a>' for target, name in links)
    navigation = f'<nav aria-label="Runs">{navigation}</nav>' if len(links) > 1 else ""
    return (
        "<!doctype html>\n"
        '<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(title)}</title><link rel="icon" href="data:,"><style>{style}</style></head><body>'
        f'<header><h1>{escape(title)}</h1><button type="button" id="theme">Dark mode</button>{navigation}</header>'
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
            "Thick: the mean of runs that differ in nothing but their seed; band: one standard deviation; thin: runs."
        )
        parts.append(f'<h3>Curves</h3><p class="hint">{hint}</p>' + grid([figure(picture) for picture in pictures]))
    parts += [_architectures(runs, names), _decisions(runs, names), "</section>"]
    return "".join(parts)


def _last(run: Run, column: str) -> float | None:
    value = run.summary.get(column, run.metrics.last(column))
    return float(value) if isinstance(value, (int, float)) else None


def _results(runs: Sequence[Run], names: Sequence[str]) -> str:
    columns = [c for c in _RESULTS if any(_last(run, c[0]) is not None for run in runs)]
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
    columns = [c for c in _RESULTS if any(_last(run, c[0]) is not None for run in runs)]
    rows = []
    for group in groups:
        cells = [escape(group.name), str(len(group.indices))]
        for column, _, percent in columns:
            found = mean_and_spread([_last(runs[i], column) for i in group.indices])
            if found is None:
                cells.append("–")
                continue
            mean, deviation, _ = found
            text = format_value(mean, percent=percent)
            cells.append(text if deviation is None else f"{text} ± {format_value(deviation, percent=percent)}")
        rows.append(cells)
    name = "Mean ± sample standard deviation of the last values"
    return table(["settings", "runs", *(text for _, text, _ in columns)], rows, name=name)


def _architectures(runs: Sequence[Run], names: Sequence[str]) -> str:
    """The derived cells of all runs next to each other."""
    by_slug: dict[str, list[str]] = {}
    titles: dict[str, str] = {}
    for run, name in zip(runs, names, strict=True):
        probabilities = run.frames[-1].probabilities if run.frames and run.command != "retrain" else {}
        for picture in architecture_pictures(run.architecture, probabilities) if run.architecture else ():
            titles[picture.slug] = picture.title
            shown = Picture(
                slug=picture.slug,
                title=f"{picture.title}, {name}",
                caption=name,
                wide=picture.wide,
                narrow=picture.narrow,
            )
            by_slug.setdefault(picture.slug, []).append(figure(shown))
    parts = []
    for slug, figures in by_slug.items():
        parts.append(f'<h3>{escape(titles[slug])}</h3><div class="pair">{"".join(figures)}</div>')
    return "".join(parts)


def _decisions(runs: Sequence[Run], names: Sequence[str]) -> str:
    """Tables of what all runs decided alike, and of what only some did."""
    decided = [i for i, run in enumerate(runs) if run.architecture]
    if len(decided) < 2:
        return ""
    decisions = kept_decisions([runs[i] for i in decided])
    common = [d for d in decisions if all(d.kept)]
    some = [d for d in decisions if not all(d.kept)]
    head = ["choice", "decision", *(names[i] for i in decided)]

    def rows(which: Sequence[object]) -> list[list[str]]:
        return [
            [escape(d.choice), escape(d.text), *('<span class="yes">yes</span>' if k else "–" for k in d.kept)]
            for d in decisions
            if d in which
        ]

    parts = [
        "<h3>Common and differing decisions</h3>",
        f'<p class="hint">{len(common)} of {len(decisions)} decisions (edges with their operation, or chosen '
        f"candidates) are common to all {len(decided)} runs.</p>",
    ]
    if common:
        parts.append(
            details(
                f"Common to all runs ({len(common)})",
                table(head[:2], [r[:2] for r in rows(common)], name="Common decisions"),
                opened=True,
            )
        )
    if some:
        parts.append(
            details(
                f"Taken by some runs ({len(some)})", table(head, rows(some), name="Differing decisions"), opened=True
            )
        )
    return "".join(parts)
