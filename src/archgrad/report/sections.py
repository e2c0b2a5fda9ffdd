"""The page's section on one run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from archgrad.decision import edge_key, edge_row
from archgrad.margins import undecided_note
from archgrad.report.agreement import agreement_table
from archgrad.report.cell_drawing import forming_scene
from archgrad.report.charts import format_value
from archgrad.report.costs import cost_tables, with_budgets
from archgrad.report.elements import details, edge_name, facts, figure, grid, notes, table, tiles
from archgrad.report.frames import frames_json
from archgrad.report.outcome_sections import test_set_section
from archgrad.report.pictures import (
    alphas_pictures,
    architecture_pictures,
    candidates_of,
    cell_graphs,
    choice_rows,
    confusion_pictures,
    curve_pictures,
    edge_pairs,
    of_images,
    residual_pictures,
    timing_pictures,
)
from archgrad.report.read import Run, flatten
from archgrad.report.scene import Picture, operation_roles
from archgrad.report.svg import escape
from archgrad.report.trees import all_candidates_fit, tree_scene
from archgrad.show import connection_notes

_ELSEWHERE = (
    '<p class="hint">The pictures of this run would make the page too large; they lie in its folder report/, and a '
    "report of this run alone shows them.</p>"
)

__all__ = ["run_pictures", "run_section", "run_status", "run_tiles"]


def run_pictures(run: Run) -> dict[str, list[Picture]]:
    """Return the pictures of a run by part of its section."""
    probabilities = run.frames[-1].probabilities if run.frames and run.command != "retrain" else {}
    return {
        "architecture": architecture_pictures(run.architecture, probabilities) if run.architecture else [],
        "alphas": alphas_pictures(run.frames),
        "curves": curve_pictures(with_budgets(run)),
        "timings": timing_pictures(run.timings),
        "predictions": [*confusion_pictures(run), *residual_pictures(run)],
    }


def run_section(
    run: Run, name: str, number: int, pictures: Mapping[str, Sequence[Picture]], *, drawn: tuple[int, str] | None = None
) -> str:
    """Return the section.

    Args:
        run: The run.
        name: What the page calls it.
        number: Place of the run on the page, from 1; part of the section's address.
        pictures: As `run_pictures` returns them; empty for a section of numbers only.
        drawn: (number, name) of the run in whose section the same architecture is drawn already.
    """
    done, text = run_status(run)
    badge = f'<span class="badge {"done" if done else "open"}">{escape(text)}</span>'
    return (
        f'<section id="run-{number}" class="run" data-run="{number}" aria-labelledby="run-{number}-title">'
        f'<h2 id="run-{number}-title">{escape(name)} {badge}</h2>'
        f"{_data_line(run)}{tiles(run_tiles(run))}{notes([*run.notes, *_connection(run), *_undecided(run)])}"
        f"{_figures(run, number, pictures, drawn) if pictures else _ELSEWHERE}{_record(run)}</section>"
    )


def _data_line(run: Run) -> str:
    said = run.environment.get("data")
    return f'<p class="hint">Data: {escape(said)}</p>' if isinstance(said, str) else ""


def _connection(run: Run) -> list[str]:
    return connection_notes(run.architecture) if run.architecture is not None else []


def _undecided(run: Run) -> list[str]:
    note = undecided_note(run.architecture) if run.architecture is not None and run.command == "search" else None
    return [] if note is None or not run_status(run)[0] else [note]


def _figures(run: Run, number: int, pictures: Mapping[str, Sequence[Picture]], drawn: tuple[int, str] | None) -> str:
    cells = [picture for picture in pictures["architecture"] if picture.slug.startswith("cell-")]
    networks = [picture for picture in pictures["architecture"] if picture.slug == "network"]
    others = [picture for picture in pictures["architecture"] if picture not in (*cells, *networks)]
    parts = []
    if drawn is not None:
        target = f'<a href="#run-{drawn[0]}">{escape(drawn[1])}</a>'
        parts.append(f'<h3>Architecture</h3><p class="hint">The one that is drawn in {target}.</p>')
        cells, networks, others = [], [], []
    if cells:
        heading = "Architecture" if run.command == "retrain" else "Derived cells"
        parts.append(f'<h3>{heading}</h3><div class="pair">{"".join(map(figure, cells))}</div>')
    if networks:
        parts.append(f"<h3>Derived network</h3>{''.join(map(figure, networks))}")
    forming = _forming(run, number, len(run.frames) > 1) if run.frames else ""
    if others and "forming-choices" not in forming:
        parts.append(f'<h3>Derived choices</h3><div class="pair">{"".join(map(figure, others))}</div>')
    if run.architecture is not None and run.command == "search":
        parts += [agreement_table(run.architecture), cost_tables(run.architecture)]
    parts.append(forming)
    if pictures["alphas"]:
        parts.append("<h3>α over epochs</h3>" + "".join(map(figure, pictures["alphas"])))
    if pictures["curves"]:
        parts.append("<h3>Training</h3>" + grid([figure(picture) for picture in pictures["curves"]]))
    parts.append(test_set_section(run, pictures["predictions"]))
    if pictures["timings"]:
        parts.append("<h3>Time and memory</h3>" + grid([figure(picture) for picture in pictures["timings"]]))
    return "".join(parts)


def run_status(run: Run) -> tuple[bool, str]:
    """Return whether a run is finished, and how far it is in words."""
    done, planned = run.done_epochs, run.planned_epochs
    kind = "retraining" if run.command == "retrain" else run.command
    if planned is None:
        return True, f"{kind}, {done} epochs"
    if done >= planned:
        return True, f"{kind} finished, {done} epochs"
    if run.stopped:
        return True, f"{kind} stopped by its rule after {done} of {planned} epochs"
    return False, f"{kind} at {done} of {planned} epochs: still going, or broke off"


def run_tiles(run: Run) -> list[tuple[str, str]]:
    """Return the numbers that one looks for first."""
    metrics, summary, timings = run.metrics, run.summary, run.timings
    values = _made_of(run)
    measured = len(values)
    values += _of_the_task(run)
    for column, text in (("test_accuracy", "test accuracy"), ("valid_accuracy", "validation accuracy")):
        last = summary.get(column, metrics.last(column))
        if isinstance(last, (int, float)):
            values.append((text, format_value(float(last), percent=True)))
    best = metrics.best("valid_accuracy")
    if best:
        values.append((f"best validation, epoch {best[1] + 1}", format_value(best[0], percent=True)))
    if len(values) == measured:  # neither classes nor metrics
        for column, text in (
            ("test_loss", "test loss"),
            ("valid_loss", "validation loss"),
            ("train_loss", "train loss"),
        ):
            last = metrics.last(column)
            if last is not None:
                values.append((text, format_value(last)))
    train = metrics.last("train_accuracy")
    if train is not None:
        values.append(("train accuracy", format_value(train, percent=True)))
    for column, text in (("alphas_entropy", "entropy of α"), ("skip_connections", "skip connections")):
        last = metrics.last(column)
        if last is not None:
            values.append((text, format_value(last)))
    adds = "multiply-adds an image" if of_images(run) else "multiply-adds a sample"
    for key, text in (("parameters", "parameters"), ("multiply_adds", adds)):
        if isinstance(summary.get(key), (int, float)):
            values.append((text, _large(summary[key])))
    seconds = [value for value in timings.columns.get("seconds", ()) if math.isfinite(value)]
    if seconds:
        values.append(("time", _duration(sum(seconds))))
    memory = timings.last("peak_memory_mb")
    if memory is not None:
        values.append(("peak memory", f"{memory:,.0f} MB"))
    seed = run.environment.get("seed", run.config.get("seed"))
    if seed is not None:
        values.append(("seed", str(seed)))
    return values


def _of_the_task(run: Run) -> list[tuple[str, str]]:
    """Return the last value of the metric that "best" goes by, where it is another than accuracy."""
    name, _ = run.best
    if name in ("accuracy", "loss"):
        return []
    columns = ((f"test_{name}", f"test {name}"), (f"valid_{name}", f"validation {name}"))
    found = [(text, run.metrics.last(column)) for column, text in columns]
    return [(text.replace("_", " "), format_value(value)) for text, value in found if value is not None]


def _made_of(run: Run) -> list[tuple[str, str]]:
    """Data, space and method of a run, as far as its files say."""
    architecture = run.architecture
    provenance = architecture.provenance if architecture is not None else {}
    search = provenance.get("search")
    said: Mapping[str, Any] = search if isinstance(search, Mapping) else {}
    own = {**said, **run.config} if run.command == "search" else run.config
    values = [("data", own.get("data") or run.summary.get("data"))]
    values.append(("space", own.get("space") or (architecture.space if architecture is not None else None)))
    method = own.get("method")
    parts = method if isinstance(method, Mapping) else own  # of runs before methods, the parts stand by themselves
    for part in ("step", "relaxation"):
        values.append((part, _part_name(parts.get(part))))
    if run.command == "retrain":
        values.append(("architecture", "random" if provenance.get("drawn_at_random") is True else None))
    elif isinstance(said.get("weights"), int):
        values.append(("weights", _large(said["weights"])))
    return [(name, _tail(value)) for name, value in values if isinstance(value, str) and value]


def _part_name(part: Any) -> Any:
    return part.get("name") if isinstance(part, Mapping) else part


def _tail(text: str) -> str:
    """A name without the folders of a path."""
    return text.rstrip("/").rpartition("/")[2] or text


def _large(value: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:g}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def _forming(run: Run, number: int, moving: bool) -> str:
    """The slider through the epochs, and what it changes."""
    frames = run.frames
    last = frames[-1]
    parts = []
    for graph in cell_graphs(last.architecture, last.probabilities):
        pairs, names = edge_pairs(graph.label, frames), candidates_of(graph.label, frames)
        roles = operation_roles(names)
        scenes = [forming_scene(graph, pairs, roles=roles, candidates=names, narrow=narrow) for narrow in (False, True)]
        picture = Picture(
            slug="forming",
            title=f"Cell {graph.label} as it forms",
            caption="All edges of the search; those kept at this epoch carry the colour and name of their operation.",
            wide=scenes[0],
            narrow=scenes[1],
        )
        marks = f' class="forming" data-cell="{escape(graph.label)}"'
        probabilities = _alphas_rows(graph.label, graph.n_inputs, pairs, names, run)
        parts.append(figure(picture, marks=marks) if moving else "")
        parts.append(details(f"Probabilities on the edges of cell {graph.label}", probabilities))
    rows, forming = choice_rows(last.architecture, last.probabilities), ' class="forming-choices"'
    if rows and moving and all_candidates_fit(rows):
        picture = Picture(
            slug="choices",
            title="Choices as they form",
            caption="Every choice with its candidates; filled ones are chosen.",
            wide=tree_scene(rows),
            narrow=tree_scene(rows, narrow=True),
        )
        parts.append(f'<div class="pair">{figure(picture, marks=forming)}</div>')
    data = f'<script type="application/json" class="frames">{frames_json(frames)}</script>'
    if not moving:
        return "".join(parts) + data
    count = len(frames)
    thinned = ""
    if run.n_epochs_saved > count:
        thinned = f" ({count} of {run.n_epochs_saved} saved epochs)"
    scrubber = (
        f'<div class="scrubber"><button type="button" class="play" aria-label="Play through the epochs">Play</button>'
        f'<label for="epoch-{number}">Epoch</label>'
        f'<input type="range" id="epoch-{number}" min="0" max="{count - 1}" value="{count - 1}" step="1" '
        f'aria-valuetext="epoch {last.epoch + 1}">'
        f'<output for="epoch-{number}">{last.epoch + 1}</output><span class="change"></span></div>'
    )
    hint = f"Drag, or use the arrow keys, Home and End; the charts below show the same epoch{thinned}."
    return f'<h3>How it formed</h3><p class="hint">{escape(hint)}</p>{scrubber}{"".join(parts)}{data}'


def _alphas_rows(label: str, n_inputs: int, pairs: Sequence[tuple[int, int]], names: Sequence[str], run: Run) -> str:
    """The table of all probabilities of a cell at the slider's epoch."""
    last = run.frames[-1]
    graph = next(g for g in cell_graphs(last.architecture, last.probabilities) if g.label == label)
    kept = {(edge.key, edge.operation) for edge in graph.edges}
    if not any(last.probabilities.get(edge_row(label, source, node)) for source, node in pairs):
        return ""
    rows = []
    for source, node in pairs:
        row = last.probabilities.get(edge_row(label, source, node), {})
        cells = []
        for name in names:
            p = row.get(name)
            marks = ' class="kept"' if (edge_key(source, node), name) in kept else ""
            cells.append(f'<span{marks} style="--p:{0.0 if p is None else p:.3f}">{_share(p)}</span>')
        rows.append([edge_name(source, node, n_inputs), *cells])
    head = ["edge", *names]
    body = table(head, rows, name=f"Probabilities on the edges of cell {label}", kind="alphas")
    return f'<div class="alphas-of" data-cell="{escape(label)}">{body}</div>'


def _share(p: float | None) -> str:
    return "" if p is None else f"{p:.2f}"


def _record(run: Run) -> str:
    """Configuration, versions and hardware."""
    environment: Mapping[str, Any] = flatten(run.environment)
    return (
        "<h3>Record</h3>"
        + details("Results", facts(flatten(run.summary), name="Results"))
        + details("Configuration", facts(flatten(run.config), name="Configuration"))
        + details("Versions, hardware and command", facts(environment, name="Versions, hardware and command"))
        + f'<p class="hint">Run folder: <code>{escape(run.path)}</code></p>'
    )
