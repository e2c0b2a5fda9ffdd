"""What a supernet knows beside its tensors, to and from a checkpoint: what was pruned, settled, remembered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archgrad.json_text import shown
from archgrad.runs import numbers_in, tensors_in
from archgrad.supernet import Supernet

__all__ = ["load_supernet_state", "supernet_state"]


def supernet_state(supernet: Supernet) -> dict[str, Any]:
    """Return what is left of the rows, what a selection measured to settle choices, and what rules remember."""
    return {
        "memory": supernet.memory,
        "kept": {label: list(left) for label, left in supernet.kept.items()},
        "switched_off": {label: list(places) for label, places in supernet.switched_off.items()},
        "settled": [dict(decision) for decision in supernet.settled],
    }


def load_supernet_state(supernet: Supernet, state: Mapping[str, Any]) -> None:
    """Take over what `supernet_state` gave; checkpoints of earlier versions have less of it.

    Raises:
        ValueError: It is something else, or of another space.
    """
    kept, switched_off = (_places(supernet, state.get(name, {}), name) for name in ("kept", "switched_off"))
    settled = state.get("settled", [])
    if not isinstance(settled, list):
        raise ValueError(f"settled must be a list, but is {shown(settled)}")
    supernet.kept, supernet.switched_off = kept, switched_off
    supernet.settled = [_decision(supernet, each) for each in settled]
    supernet.memory = {rule: tensors_in(own, rule) for rule, own in dict(state.get("memory", {})).items()}


def _places(supernet: Supernet, state: Any, what: str) -> dict[str, tuple[int, ...]]:
    if not isinstance(state, Mapping) or not all(label in supernet.rows for label in state):
        raise ValueError(f"{what} must name rows of the space, but is {shown(state)}")
    for label, places in state.items():
        every = range(len(supernet.rows[label].names))
        if not isinstance(places, list) or not places or places != [k for k in every if k in places]:
            raise ValueError(f"{what} must have ascending numbers of candidates, but '{label}' has {shown(places)}")
    return {label: tuple(places) for label, places in state.items()}


def _decision(supernet: Supernet, state: Any) -> dict[str, Any]:
    fields = dict(state) if isinstance(state, Mapping) else {}
    without = [name for name in fields if isinstance(name, str) and name.endswith("_without")]
    if len(without) != 1 or len(fields) != 4 or not isinstance(fields.get("choice"), str):
        raise ValueError(f"settled must have what was measured of choices, but has {shown(state)}")
    measured = numbers_in(fields[without[0]], without[0], finite=True)
    taken = fields.get("kept", fields.get("dropped"))
    row = supernet.rows.get(fields["choice"])
    if taken not in measured or ("kept" in fields and (row is None or not set(measured) <= set(row.names))):
        raise ValueError(f"settled must have candidates of the space, but has {shown(state)}")
    numbers_in({"tuned_epochs": fields.get("tuned_epochs")}, "settled")
    return {**fields, without[0]: measured}
