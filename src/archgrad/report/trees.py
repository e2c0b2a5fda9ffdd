"""Choices of any space as a tree of label paths: every candidate in sight, the chosen ones filled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from archgrad.decision import Decision, candidate_name, outside_cells
from archgrad.report.scene import Box, Curve, Group, Item, Label, Scene, clean_text, shorten, text_width

__all__ = ["ChoiceRow", "all_candidates_fit", "choice_row", "tree_scene"]

_TEXT = 12.0
_LINE = 30.0
_PILL = 22.0
_INDENT = 18.0
_MANY_CANDIDATES = 400


@dataclass(frozen=True, kw_only=True)
class ChoiceRow:
    """A choice that is no cell as it is drawn."""

    label: str
    candidates: tuple[str, ...]
    chosen: frozenset[str]
    probabilities: Mapping[str, float]
    """Candidate -> probability; empty where the search left none."""
    inputs: bool
    """Whether the candidates are the inputs of an input choice."""


def choice_row(
    label: str, decision: Decision, probabilities: Mapping[str, float] | Sequence[float] | None
) -> ChoiceRow:
    """Return a choice's row.

    Args:
        label: The choice's label.
        decision: Of a choice that is no cell.
        probabilities: Candidate -> probability, or one probability an input; None where unknown.
    """
    inputs = candidate_name(decision) is None
    chosen = outside_cells(decision)
    if isinstance(probabilities, Mapping):
        known = dict(probabilities)
    else:
        known = {str(i): value for i, value in enumerate(probabilities or ())}
    candidates = tuple(dict.fromkeys([*known, *chosen]))
    return ChoiceRow(label=label, candidates=candidates, chosen=frozenset(chosen), probabilities=known, inputs=inputs)


def all_candidates_fit(rows: Sequence[ChoiceRow]) -> bool:
    """Return whether a tree shows all candidates, not only the chosen ones of a space too large for that."""
    return sum(len(row.candidates) for row in rows) <= _MANY_CANDIDATES


def tree_scene(rows: Sequence[ChoiceRow], *, narrow: bool = False) -> Scene:
    """Draw choices below each other, indented by the parts of their labels between slashes.

    Args:
        rows: At least one choice.
        narrow: For a screen of 400 pixels: candidates below their choice.
    """
    width = 356.0 if narrow else 900.0
    fits = all_candidates_fit(rows)
    lines = list(_lines(rows))
    left = min(max(_name_end(line) for line in lines), 320.0) + 16.0
    items: list[Item] = []
    y = _LINE / 2
    heights: list[float] = []  # of the last line at each depth
    for line in lines:
        x = 8.0 + line.depth * _INDENT
        if line.depth:
            elbow = x - _INDENT + 5.0
            corners = (("M", elbow, heights[line.depth - 1] + 9.0), ("L", elbow, y), ("L", x - 3.0, y))
            items.append(Curve(commands=corners, stroke="faint"))
        heights[line.depth :] = [y]
        text = shorten(line.text, size=_TEXT, width=300.0 - line.depth * _INDENT)
        fill = "ink" if line.row else "muted"
        items.append(Label(x=x, y=y, text=text, size=_TEXT, anchor="start", bold=line.row is not None, fill=fill))
        if line.row:
            y += _LINE - 4.0 if narrow else 0.0
            names = [name for name in line.row.candidates if fits or name in line.row.chosen]
            group, y = _pills(line.row, names, x + _INDENT if narrow else left, y, width)
            items.append(group)
            y += 4.0
        y += _LINE
    legend = "filled: chosen" if fits else "chosen candidates only"
    if any(row.probabilities for row in rows):
        legend += " · bar: probability"
    items.append(Label(x=8.0, y=y, text=legend, size=11.5, anchor="start", fill="muted"))
    name = "Choices: " + "; ".join(f"{clean_text(row.label)} takes {_chosen_text(row)}" for row in rows)
    if not narrow:
        width = max(_right_end(items), 330.0) + 8.0
    return Scene(width=width, height=y + 14.0, items=tuple(items), name=name)


@dataclass(frozen=True, kw_only=True)
class _Line:
    """A line of the tree: a choice, or what several choices have in common."""

    text: str
    depth: int
    row: ChoiceRow | None


@dataclass
class _Branch:
    row: ChoiceRow | None = None
    children: dict[str, _Branch] = field(default_factory=dict)


def _lines(rows: Sequence[ChoiceRow]) -> Iterator[_Line]:
    root = _Branch()
    for row in rows:
        branch = root
        for part in row.label.split("/"):
            branch = branch.children.setdefault(part, _Branch())
        branch.row = row
    yield from _walk(root, 0)


def _walk(branch: _Branch, depth: int) -> Iterator[_Line]:
    for name, child in branch.children.items():
        text = name
        while child.row is None and len(child.children) == 1:  # "0/op" rather than a line for "0" alone
            ((part, child),) = child.children.items()
            text += "/" + part
        yield _Line(text=text, depth=depth, row=child.row)
        yield from _walk(child, depth + 1)


def _right_end(items: Sequence[Item]) -> float:
    """Where the candidates end."""
    ends = [0.0]
    for item in items:
        if isinstance(item, Group):
            ends.append(_right_end(item.items))
        elif isinstance(item, Box):
            ends.append(item.x + item.width)
    return max(ends)


def _chosen_text(row: ChoiceRow) -> str:
    names = ", ".join(name for name in row.candidates if name in row.chosen)
    return f"inputs {names}" if row.inputs else names


def _name_end(line: _Line) -> float:
    return 8.0 + line.depth * _INDENT + text_width(clean_text(line.text), size=_TEXT, bold=True)


def _pills(row: ChoiceRow, names: Sequence[str], left: float, y: float, width: float) -> tuple[Group, float]:
    """The candidates of a choice, on as many lines as they need, and the middle of the last line."""
    items: list[Item] = []
    x = left
    for name in names:
        text = shorten(f"input {name}" if row.inputs else name, size=_TEXT, width=min(180.0, width - left - 20.0))
        size = max(text_width(text, size=_TEXT) + 18.0, 44.0)
        if x > left and x + size > width - 4.0:
            x = left
            y += _LINE + 4.0
        items.append(_pill(row, name, text, x, y, size))
        x += size + 8.0
    return Group(items=tuple(items), marks={"class": "choice", "data-choice": row.label}), y


def _pill(row: ChoiceRow, name: str, text: str, x: float, y: float, size: float) -> Group:
    chosen = name in row.chosen
    probability = row.probabilities.get(name)
    title = f"{row.label}: {name}" + ("" if probability is None else f", probability {probability:.3f}")
    items: list[Item] = [
        Box(
            x=x,
            y=y - _PILL / 2,
            width=size,
            height=_PILL,
            radius=_PILL / 2,
            fill="chosen" if chosen else "surface",
            stroke="chosen" if chosen else "faint",
            marks={"class": "pill"},
        ),
        Label(
            x=x + size / 2,
            y=y,
            text=text,
            size=_TEXT,
            fill="on-chosen" if chosen else "ink",
            marks={"class": "pill-text"},
        ),
    ]
    if probability is not None:
        bar = size - 16.0
        top = y + _PILL / 2 + 2.5
        items.append(Box(x=x + 8.0, y=top, width=bar, height=3.0, radius=1.5, fill="grid"))
        items.append(
            Box(
                x=x + 8.0,
                y=top,
                width=max(bar * min(probability, 1.0), 0.5),
                height=3.0,
                radius=1.5,
                fill="c1",
                marks={"class": "pill-bar", "data-full": f"{bar:.2f}"},
            )
        )
    marks = {"class": "candidate chosen" if chosen else "candidate", "data-candidate": name}
    return Group(items=tuple(items), marks=marks, title=title)
