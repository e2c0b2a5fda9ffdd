"""A network of open sizes as blocks from input to output: how many a stage has, how wide they are, what each takes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from archgrad.architecture import Architecture
from archgrad.decision import Decision, outside_cells
from archgrad.report.scene import Box, Item, Label, Scene, clean_text, shorten, text_width

__all__ = ["network_scene"]

_DEPTH, _WIDTH = "depth", "width"
_MOST_BLOCKS = 40
_SMALL, _ROW = 12.0, 18.0
_LOW, _HIGH = 18.0, 96.0
_NARROWEST, _WIDEST = 56.0, 110.0


class _Block(NamedTuple):
    stage: str
    width: float | None
    taken: Mapping[str, str]
    """Name of a choice -> what it takes."""


def network_scene(architecture: Architecture) -> Scene | None:
    """Draw the blocks of a network, as high as their stage is wide, with what each takes below.

    Stages are the parts of labels before "/depth" and "/width"; branches below a stage, such as "stage1/block0", are
    its blocks in order.

    Args:
        architecture: Of any space.

    Returns:
        None where no choice is called "depth" or "width", or there are too many blocks.
    """
    blocks = list(_blocks({k: v for k, v in architecture.choices.items() if not isinstance(v, Mapping)}))
    if not blocks or len(blocks) > _MOST_BLOCKS:
        return None
    names = list(dict.fromkeys(name for block in blocks for name in block.taken))
    texts = {clean_text(text) for block in blocks for text in (*block.taken.values(), f"{block.width or ''}")}
    column = min(max(_NARROWEST, *(text_width(text, size=_SMALL) + 12.0 for text in texts)), _WIDEST)
    left = 20.0 + max(text_width(shorten(name, size=_SMALL, width=140.0), size=_SMALL) for name in [*names, _WIDTH])
    most = max((block.width or 0.0 for block in blocks), default=0.0)
    bottom, items = 30.0 + _HIGH, list[Item]()
    for k, block in enumerate(blocks):
        middle = left + column * (k + 0.5)
        share = (block.width or most) / most if most > 0 else 0.5
        high = _LOW + (_HIGH - _LOW) * share
        said = ", ".join(f"{name} {text}" for name, text in block.taken.items())
        items.append(
            Box(x=middle - column / 2 + 3.0, y=bottom - high, width=column - 6.0, height=high, radius=4.0, fill="node",
                stroke="node-edge", title=f"{block.stage or 'network'}: {said}")
        )  # fmt: skip
        if block.width is not None:
            items.append(Label(x=middle, y=bottom - high / 2, text=f"{block.width:g}", size=_SMALL))
        if k == 0 or blocks[k - 1].stage != block.stage:
            room = column * sum(other.stage == block.stage for other in blocks) - 6.0
            name = shorten(clean_text(block.stage), size=_SMALL, width=room)
            items.append(Label(x=middle - column / 2 + 3.0, y=14.0, text=name, size=_SMALL, anchor="start", bold=True))
        for row, name in enumerate(names):
            text = shorten(clean_text(block.taken.get(name, "")), size=_SMALL, width=column - 4.0)
            items.append(Label(x=middle, y=bottom + _ROW * (row + 0.8), text=text, size=_SMALL))
    if most > 0:
        items.append(Label(x=left - 10.0, y=bottom - _LOW / 2, text=_WIDTH, size=_SMALL, anchor="end", fill="muted"))
    for row, name in enumerate(names):
        text = shorten(clean_text(name), size=_SMALL, width=140.0)
        y = bottom + _ROW * (row + 0.8)
        items.append(Label(x=left - 10.0, y=y, text=text, size=_SMALL, anchor="end", fill="muted"))
    stages = dict.fromkeys(block.stage for block in blocks)
    told = ", ".join(f"{stage or 'network'} {sum(b.stage == stage for b in blocks)}" for stage in stages)
    width, height = left + column * len(blocks) + 10.0, bottom + _ROW * (len(names) + 0.5) + 8.0
    return Scene(width=width, height=height, items=tuple(items), name=f"Blocks of the network: {clean_text(told)}")


def _blocks(choices: Mapping[str, Decision]) -> Iterator[_Block]:
    """Yield the blocks of all stages, those of a stem first."""
    parts = {label: label.rpartition("/") for label in choices}
    stages = {stage for stage, _, name in parts.values() if name in (_DEPTH, _WIDTH)}
    for stage in sorted(stages, key=lambda stage: ("stem" not in stage, _natural(stage))):
        below = {label.removeprefix(f"{stage}/" if stage else ""): text for label, text in choices.items()
                 if label.startswith(f"{stage}/" if stage else "")}  # fmt: skip
        own = {name: decision for name, decision in below.items() if "/" not in name}
        depth, width = own.pop(_DEPTH, 1), own.pop(_WIDTH, None)
        branches: dict[str, dict[str, str]] = {}
        for name, decision in below.items():
            branch, _, rest = name.partition("/")
            if rest and f"{stage}/{branch}".lstrip("/") not in stages:
                branches.setdefault(branch, {})[rest] = _text(decision)
        ordered = sorted(branches, key=_natural)
        count = depth if isinstance(depth, int) and not isinstance(depth, bool) else 1
        for k in range(min(count, _MOST_BLOCKS + 1)):
            inside = branches[ordered[k]] if k < len(ordered) else {}
            taken = {**{name: _text(decision) for name, decision in own.items()}, **inside}
            is_number = isinstance(width, int | float) and not isinstance(width, bool) and width > 0
            yield _Block(stage, float(width) if is_number else None, taken)  # type: ignore[arg-type]


def _text(decision: Decision) -> str:
    return ", ".join(outside_cells(decision))


def _natural(name: str) -> list[Any]:
    """Return what to sort names by so that stage10 comes after stage2."""
    return [(part.isdigit(), int(part) if part.isdigit() else part) for part in re.split(r"([0-9]{1,9})", name)]
