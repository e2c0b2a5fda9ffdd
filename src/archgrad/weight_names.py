"""Whose names a state dict of a trained network has, and what archgrad calls the same layers.

Known are the authors' training code (`cells.0._ops.1.op.2.weight`), pt.darts (`cells.0.dag.0.1.0.net.2.weight`) and the
hub of NNI 2.8 to 3.0 (`stages.0.0.ops.0.1.2.weight`). The layers are the same, but for pools: pt.darts' are followed by
a BatchNorm.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from archgrad.decision import cell_nodes
from archgrad.errors import ArchitectureError
from archgrad.json_text import shown

__all__ = ["own_names", "plain_state", "sizes_of"]

_SEPARABLE_LAYERS = 4
"""Layers of the first half of a separable convolution, after which those of the second are counted on."""
_HUB_CELL = re.compile(r"stages\.([0-9]{1,4})\.(?:blocks\.)?([0-9]{1,4})\.(.+)")
_PT_DARTS = (
    (re.compile(r"aux_head\.net\."), "auxiliary_head.features."),
    (re.compile(r"aux_head\.linear\."), "auxiliary_head.classifier."),
    (re.compile(r"linear\."), "classifier."),
    (re.compile(r"(cells\.[0-9]+)\.preproc([01])\.net\."), r"\1.preprocess\2.op."),
    (re.compile(r"(cells\.[0-9]+)\.preproc([01])\.conv([12])\."), r"\1.preprocess\2.conv_\3."),
    (re.compile(r"(cells\.[0-9]+)\.preproc([01])\."), r"\1.preprocess\2."),
)


def plain_state(saved: Any) -> dict[str, Tensor]:
    """Return the state dict of what was saved: itself, or under "state_dict"; without DataParallel's prefix.

    Raises:
        ArchitectureError: It is something else, such as a whole module.
    """
    if isinstance(saved, Mapping) and isinstance(saved.get("state_dict"), Mapping):
        saved = saved["state_dict"]
    fits = isinstance(saved, Mapping) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in saved.items()
    )
    if not fits or not saved:
        raise ArchitectureError(
            f"Weights are a state dict, name -> tensor, but this is {shown(type(saved).__name__)}. Where a whole "
            f"module was saved, load it with its code and save module.state_dict()."
        )
    return {name.removeprefix("module."): value for name, value in saved.items()}


def own_names(state: Mapping[str, Tensor], choices: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the weights of a trained network under names as `archgrad.official` takes them.

    Args:
        state: Under the names of any of the three.
        choices: Of the architecture, which tells how many edges the nodes have.

    Raises:
        ArchitectureError: The names are of none of the three.
    """
    if any(".dag." in name for name in state):
        renamed = {name: _from_pt_darts(name) for name in state}
    elif any(name.startswith("stages.") for name in state):
        first = _first_cells(state)
        renamed = {name: _from_hub(name, first) for name in state}
    elif any("._ops." in name for name in state):
        return dict(state)
    else:
        raise ArchitectureError(
            f"The names of these weights are not those of the authors' training code (cells.0._ops.), of pt.darts "
            f"(cells.0.dag.) or of NNI's hub (stages.0.); one is {shown(next(iter(state)))}. Take the state dict of a "
            f"trained network of one of these."
        )
    cells = 1 + max(
        (int(match[1]) for name in renamed.values() if (match := re.match(r"cells\.(\d+)\.", name))), default=0
    )
    offsets = {label: _offsets(choices[label]) for label in ("normal", "reduce") if label in choices}
    return {_with_entry(name, cells, offsets): state[old] for old, name in renamed.items()}


def _offsets(decision: Mapping[str, Any]) -> list[int]:
    counts = [len(edges) for edges in cell_nodes(decision).values()]
    return [sum(counts[:place]) for place in range(len(counts))]


def _with_entry(name: str, cells: int, offsets: Mapping[str, Sequence[int]]) -> str:
    """Number the operations of a cell in one row, where they were numbered by node and edge."""
    match = re.fullmatch(r"cells\.([0-9]+)\.NODE\.([0-9]{1,4})\.([0-9]{1,4})\.(.+)", name)
    if match is None:
        return name
    cell, node, edge = int(match[1]), int(match[2]), int(match[3])
    of_kind = offsets.get("reduce" if cell in (cells // 3, 2 * cells // 3) else "normal", ())
    if node >= len(of_kind):
        raise ArchitectureError(
            f"The weights have a node {node + 2} in cell {cell}, which the architecture has not. Give the architecture "
            f"that was trained."
        )
    return f"cells.{cell}._ops.{of_kind[node] + edge}.{match[4]}"


def _from_pt_darts(name: str) -> str:
    match = re.fullmatch(r"(cells\.[0-9]+)\.dag\.([0-9]+)\.([0-9]+)\.(?:0\.)?(.+)", name)
    if match is None:
        for pattern, own in _PT_DARTS:
            if pattern.match(name):
                return pattern.sub(own, name, count=1)
        return name
    rest = match[4]
    if half := re.fullmatch(r"net\.([01])\.net\.([0-9])\.(\w+)", rest):
        rest = f"op.{int(half[1]) * _SEPARABLE_LAYERS + int(half[2])}.{half[3]}"
    else:
        rest = re.sub(r"^net\.", "op.", re.sub(r"^conv([12])\.", r"conv_\1.", rest))
    return f"{match[1]}.NODE.{match[2]}.{match[3]}.{rest}"


def _first_cells(state: Mapping[str, Tensor]) -> list[int]:
    """Return the number of the first cell of each stage."""
    found = [(int(match[1]), int(match[2])) for name in state if (match := _HUB_CELL.fullmatch(name))]
    sizes = [1 + max((place for stage, place in found if stage == s), default=-1) for s in range(3)]
    return [0, sizes[0], sizes[0] + sizes[1]]


def _from_hub(name: str, first: Sequence[int]) -> str:
    match = _HUB_CELL.fullmatch(name)
    if match is None or int(match[1]) >= len(first):
        return name
    cell, rest = first[int(match[1])] + int(match[2]), match[3]
    if part := re.fullmatch(r"preprocessor\.pre([01])\.(.+)", rest):
        return f"cells.{cell}.preprocess{part[1]}.{_below_op(part[2])}"
    if part := re.fullmatch(r"ops\.([0-9]+)\.([0-9]+)\.(.+)", rest):
        inside = part[3].removeprefix("0.")  # beside drop path; a sequence's own first layer, a ReLU, has no weights
        return f"cells.{cell}.NODE.{part[1]}.{part[2]}.{_below_op(inside)}"
    return f"cells.{cell}.{rest}"


def _below_op(rest: str) -> str:
    return f"op.{rest}" if rest[:1].isdigit() else rest


def sizes_of(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the options of the network that weights under the authors' names belong to, from their shapes.

    Raises:
        ArchitectureError: The stem, the cells or the classifier is missing.
    """
    imagenet = "stem0.0.weight" in state
    stem = "stem0.0.weight" if imagenet else "stem.0.weight"
    cells = [int(match[1]) for name in state if (match := re.match(r"cells\.([0-9]{1,4})\.", name))]
    for name in (stem, "classifier.weight"):
        if name not in state or state[name].ndim < 2 or not cells:
            raise ArchitectureError(
                f"A trained network has the weights '{name}' and cells, but these have not. Take a whole state dict."
            )
    return {
        "channels": state[stem].shape[0] * 2 if imagenet else state[stem].shape[0] // 3,
        "cells": 1 + max(cells),
        "num_classes": state["classifier.weight"].shape[0],
        "in_channels": state[stem].shape[1],
        "auxiliary": any(name.startswith("auxiliary_head.") for name in state),
        "imagenet": imagenet,
    }
