"""Genotypes as they lie around: one in a file, one an epoch in a log, many by name in a `genotypes.py`."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from archgrad.errors import ArchitectureError
from archgrad.genotype import parse_genotype
from archgrad.json_text import shown

__all__ = ["Found", "choose_genotype"]

_CALL = re.compile(r"(?:\b([A-Za-z_][A-Za-z0-9_]{0,200})\s{0,100}=\s{0,100})?\bGenotype\s{0,100}\(")
_EPOCH = re.compile(r"\bepoch\b\W{0,5}([0-9]{1,6})\b", re.IGNORECASE)
_COMMENT = re.compile(r"#[^\n]*")
_MAX_CHARACTERS = 64 * 1024
_MAX_DEPTH = 8
_GENERIC = ("genotype", "geno", "Genotype")
"""What logs and scripts call any genotype, which therefore names none."""


@dataclass(frozen=True)
class Found:
    """The genotype that was taken of a text."""

    cells: dict[str, dict[str, list[Any]]]
    """As `parse_genotype` returns it."""
    provenance: dict[str, Any]
    """Which of several it is: "genotype" -> its name or place, and "epoch"; empty where the text has one."""


@dataclass(frozen=True)
class _Place:
    start: int
    name: str | None
    epoch: int | None


def choose_genotype(text: str, chosen: str | int | None = None) -> Found:
    """Return the genotype of a text, or one of several; none but that one is read, and nothing is evaluated.

    Args:
        text: `Genotype(...)` alone, or anything in which such calls stand: a log, a Python file.
        chosen: A name takes the genotype that is assigned to it, a number that of this epoch (the last of them). A log
            that tells no epochs is counted from 0. None takes the last, and warns where there are several.

    Raises:
        ArchitectureError: There is none, or it is damaged.
    """
    plain = _COMMENT.sub("", text)
    calls = list(_CALL.finditer(plain))
    alone = len(calls) == 1 and not plain[: calls[0].start()].strip()
    if not calls or (alone and chosen is None):
        return Found(parse_genotype(text), {})
    places = _places(plain, calls)
    place = places[-1] if chosen is None else _chosen(places, chosen)
    cells = parse_genotype(_call_at(plain, place.start))
    if len(places) == 1:
        return Found(cells, {})
    said: dict[str, Any] = {"genotype": f"{places.index(place) + 1} of {len(places)}"}
    said |= {} if place.name is None else {"name": place.name}
    said |= {} if place.epoch is None else {"epoch": place.epoch}
    if chosen is None:
        which = f"'{place.name}'" if place.name else f"that of epoch {place.epoch}"
        other = f"FILE:{places[0].name}" if places[0].name else f"FILE@{places[0].epoch}"
        warnings.warn(
            f"The text has {len(places)} genotypes; the last was taken, {which}. Choose another with {other}.",
            stacklevel=4,
        )
    return Found(cells, said)


def _places(text: str, calls: Sequence[re.Match[str]]) -> list[_Place]:
    """Return where genotypes begin, with their names, or with epochs where none has a name of its own."""
    named = [match[1] if match[1] not in _GENERIC else None for match in calls]
    starts = [text.index("Genotype", match.end(1) if match[1] else match.start()) for match in calls]
    if any(named):
        return [_Place(start, name, None) for start, name in zip(starts, named, strict=True)]
    epochs = [(match.start(), int(match[1])) for match in _EPOCH.finditer(text)]
    places, told = [], 0
    for count, start in enumerate(starts):
        while told < len(epochs) and epochs[told][0] < start:
            told += 1
        places.append(_Place(start, None, epochs[told - 1][1] if told else None if epochs else count))
    return places


def _chosen(places: Sequence[_Place], chosen: str | int) -> _Place:
    fitting = [place for place in places if chosen == (place.name if isinstance(chosen, str) else place.epoch)]
    if fitting:
        return fitting[-1]
    kind = "name" if isinstance(chosen, str) else "epoch"
    known = dict.fromkeys(getattr(place, kind) for place in places if getattr(place, kind) is not None)
    listed = ", ".join(map(str, [*known][:8])) + (f" and {len(known) - 8} more" if len(known) > 8 else "")
    raise ArchitectureError(
        f"The text has no genotype of the {kind} {shown(chosen)}. "
        + (f"It has {kind}s {listed}." if known else f"Its {len(places)} genotypes have no {kind}s.")
    )


def _call_at(text: str, start: int) -> str:
    """Return the text of a call, up to the bracket that ends it."""
    depth, quote = 0, ""
    for end in range(start, min(len(text), start + _MAX_CHARACTERS)):
        character = text[end]
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in "([":
            depth += 1
            if depth > _MAX_DEPTH:
                break
        elif character in ")]":
            depth -= 1
            if depth == 0:
                return text[start : end + 1]
    raise ArchitectureError(
        f"A genotype ends within {_MAX_CHARACTERS} characters and has at most {_MAX_DEPTH} brackets in one another, "
        f"but {shown(text[start : start + 60])} does not. Take an intact file."
    )
