"""What the page's slider needs: the decisions and probabilities of every epoch, as compact JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from archgrad.decision import edge_key, edge_row, outside_cells
from archgrad.report.cell_drawing import cell_graph, forming_texts
from archgrad.report.pictures import candidates_of, edge_pairs
from archgrad.report.read import Frame
from archgrad.report.scene import clean_text, operation_roles

__all__ = ["frames_data", "frames_json"]

_MISSING = -1


def frames_json(frames: Sequence[Frame]) -> str:
    """Return the data as JSON that may stand inside a script element of a page."""
    text = json.dumps(frames_data(frames), ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def frames_data(frames: Sequence[Frame]) -> dict[str, Any]:
    """Return the data: names once, and for each epoch numbers only.

    Probabilities are whole thousandths, row by row; -1 where one is unknown. A kept edge is [place of its edge, place
    of its operation].
    """
    last = frames[-1].architecture
    cells, choices = {}, {}
    for label, decision in last.choices.items():
        if isinstance(decision, Mapping):
            cells[clean_text(label)] = _cell(label, frames)
        else:
            choices[clean_text(label)] = _choice(label, frames)
    return {"epochs": [frame.epoch + 1 for frame in frames], "cells": cells, "choices": choices}


def _cell(label: str, frames: Sequence[Frame]) -> dict[str, Any]:
    pairs, names = edge_pairs(label, frames), candidates_of(label, frames)
    roles = operation_roles(names)
    kept, probabilities = [], []
    for frame in frames:
        decision = frame.architecture.choices.get(label)
        edges = cell_graph(label, decision).edges if isinstance(decision, Mapping) else ()
        kept.append([[pairs.index((e.source, e.node)), names.index(e.operation)] for e in edges])
        rows = [frame.probabilities.get(edge_row(label, source, node), {}) for source, node in pairs]
        probabilities.append([_thousandths(row.get(name)) for row in rows for name in names])
    return {
        "pairs": [edge_key(source, node) for source, node in pairs],
        "names": [clean_text(name) for name in names],
        "wide": forming_texts(names, narrow=False),
        "narrow": forming_texts(names, narrow=True),
        "roles": [roles[name] for name in names],
        "kept": kept,
        "p": probabilities,
    }


def _choice(label: str, frames: Sequence[Frame]) -> dict[str, Any]:
    names: dict[str, None] = {}
    chosen: list[list[str]] = []
    for frame in frames:
        names.update(dict.fromkeys(frame.probabilities.get(label, {})))
        chosen.append(outside_cells(frame.architecture.choices.get(label, ())))
        names.update(dict.fromkeys(chosen[-1]))
    order = list(names)
    return {
        "names": [clean_text(name) for name in order],
        "chosen": [[order.index(name) for name in row] for row in chosen],
        "p": [[_thousandths(frame.probabilities.get(label, {}).get(name)) for name in order] for frame in frames],
    }


def _thousandths(probability: float | None) -> int:
    if probability is None or not 0.0 <= probability <= 1.0:
        return _MISSING
    return round(1000 * probability)
