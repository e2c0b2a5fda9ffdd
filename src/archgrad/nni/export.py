"""From a supernet's alphas to the dict that NNI 2.4 exported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archgrad.cell import Cell
from archgrad.choices import InputChoice
from archgrad.decision import cell_nodes
from archgrad.errors import SpaceError
from archgrad.nni_format import format_nni
from archgrad.supernet import Supernet

__all__ = ["export"]


def export(supernet: Supernet) -> dict[str, Any]:
    """Return what the supernet's alphas lead to at present; the shape is described at `DartsTrainer.export`.

    Raises:
        SpaceError: Two choices have the same key.
    """
    probabilities = {**supernet.edge_probabilities(), **supernet.probabilities()}
    layers: list[tuple[str, Any]] = []
    inputs: list[tuple[str, Any]] = []
    done: set[str] = set()
    for entry in supernet.choices:
        label, choice = entry.label, entry.choice
        if label in done:
            continue
        done.add(label)
        decision = choice.decide(label, probabilities)
        if isinstance(choice, Cell):
            best = _best_operations(choice, label, probabilities)
            nodes = {str(node): kept for node, kept in cell_nodes(decision).items()}
            best |= {(source, int(node)): name for node, kept in nodes.items() for name, source in kept}
            edges, switches = format_nni(label, best, nodes)
            layers.extend(edges.items())
            inputs.extend(switches.items())
        elif isinstance(choice, InputChoice):
            alphas = supernet.alphas[label].tolist()
            inputs.append((label, sorted(decision, key=lambda i: -alphas[i])))
        else:
            layers.append((label, decision))
    exported = dict([*layers, *inputs])
    if len(exported) < len(layers) + len(inputs):
        keys = [key for key, _ in [*layers, *inputs]]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise SpaceError(f"Two choices are exported to NNI's shape as '{twice}'. Give one of them another label.")
    return exported


def _best_operations(cell: Cell, label: str, probabilities: Mapping[str, list[float]]) -> dict[tuple[int, int], str]:
    """Return (source, node) -> likeliest operation that may be derived, for every edge of a cell."""
    best = {}
    for source, node in cell.pairs:
        row = zip(cell.names_of(source, node), probabilities[cell.edge_label(label, source, node)], strict=True)
        best[source, node] = max(((name, p) for name, p in row if name not in cell.never), key=lambda pair: pair[1])[0]
    return best
