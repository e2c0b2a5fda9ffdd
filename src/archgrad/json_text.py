"""Strict JSON: read from text that nobody vouches for, frozen in memory, and written so that `diff` reads well."""

from __future__ import annotations

import json
import math
import re
import reprlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NoReturn

from archgrad.errors import ArchitectureError

__all__ = [
    "MAX_TEXT_BYTES",
    "format_json",
    "freeze",
    "is_unicode",
    "natural_order",
    "parse_json",
    "shown",
    "shown_text",
    "thaw",
]

MAX_TEXT_BYTES = 16 * 1024 * 1024
"""Longest text that is read; an architecture with the alphas of ten thousand edges takes a tenth of it."""
_MAX_DEPTH = 50
_INTEGER_BITS = 64
_INTEGER_DIGITS = 20  # of 2**64
_TOO_DEEP = object()

_repr = reprlib.Repr()
_repr.maxlevel = 3
_repr.maxstring = _repr.maxother = _repr.maxlong = 80


def shown(value: object) -> str:
    """Return `value` as an error message shows it: on one line, and short whatever its size."""
    try:
        text = _repr.repr(value)
    except ValueError:  # an integer of more digits than Python prints
        return f"a {type(value).__name__}"
    return shown_text(text)


def shown_text(text: str) -> str:
    """Return what somebody else says, as an error message quotes it: on one line, and short whatever its length."""
    text = " ".join((text if len(text) <= 2000 else f"{text[:1000]}{text[-1000:]}").split())
    return text if len(text) <= 160 else f"{text[:120]}...{text[-30:]}"


def parse_json(text: str, *, not_finite_as_none: bool = False) -> Any:
    """Return what a JSON text says.

    Args:
        text: Any text of up to `MAX_TEXT_BYTES` characters.
        not_finite_as_none: Read NaN and numbers beyond the range of a float as None, rather than refuse them.

    Raises:
        ArchitectureError: The text is not JSON, nests too deep, repeats a key, or holds an integer of more than 64 bits
            or a number that is not finite.
    """
    if not isinstance(text, str):
        raise ArchitectureError(f"JSON is read from a str, but got {type(text).__name__}.")
    if len(text) > MAX_TEXT_BYTES:
        raise ArchitectureError(f"A text of at most {MAX_TEXT_BYTES} characters is read, but this one has {len(text)}.")
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_float_or_none if not_finite_as_none else _float,
            parse_constant=_float_or_none if not_finite_as_none else _not_finite,
        )
    except json.JSONDecodeError as error:
        raise ArchitectureError(
            f"Not valid JSON at line {error.lineno}, column {error.colno}: {error.msg}. "
            f"The text may be cut off; take an intact copy."
        ) from None
    except RecursionError:
        value = _TOO_DEEP
    layer, depth = [value], 0
    while layer:
        if depth > _MAX_DEPTH or value is _TOO_DEEP:
            raise ArchitectureError(f"JSON may nest at most {_MAX_DEPTH} deep, but this text nests deeper. Flatten it.")
        layer = [
            inner
            for outer in layer
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        depth += 1
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ArchitectureError(f"A key may occur once in an object, but {shown(key)} is repeated. Keep one.")
            seen.add(key)
    return result


def _integer(text: str) -> int:
    value = int(text) if len(text.lstrip("-")) <= _INTEGER_DIGITS else None
    if value is None or not _fits(value):
        raise ArchitectureError(f"An integer may have {_INTEGER_BITS} bits, but got {shown(text)}.")
    return value


def _fits(value: int) -> bool:
    return -(1 << (_INTEGER_BITS - 1)) <= value < 1 << _INTEGER_BITS


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        _not_finite(text)
    return value


def _float_or_none(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


def _not_finite(text: str) -> NoReturn:
    raise ArchitectureError(f"A number must be finite, but got {shown(text)}. Write null where a value is missing.")


def freeze(value: Any, where: str, *, depth: int = 0) -> Any:
    """Return a deeply immutable copy of JSON data: read-only mappings for objects, tuples for lists.

    Args:
        value: Nested str, bool, int (64 bits), finite float, None, lists or tuples, and mappings with str keys.
        where: What the value is, for the message.
        depth: How deep `value` already lies.

    Raises:
        ArchitectureError: Something in `value` is not of these.
    """
    if depth > _MAX_DEPTH:
        raise ArchitectureError(f"{where} may nest at most {_MAX_DEPTH} deep, but nests deeper. Flatten it.")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return check_text(str(value), where)
    if isinstance(value, int):
        if not _fits(value):
            raise ArchitectureError(f"{where}: an integer may have {_INTEGER_BITS} bits, but got {shown(value)}.")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ArchitectureError(
                f"{where}: a number must be finite, but got {value!r}. Use None where one is missing."
            )
        return float(value)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ArchitectureError(f"{where}: keys must be str, but got {shown(key)} ({type(key).__name__}).")
        return MappingProxyType(
            {check_text(str(key), where): freeze(value[key], where, depth=depth + 1) for key in value}
        )
    if isinstance(value, (list, tuple)):
        return tuple(freeze(element, where, depth=depth + 1) for element in value)
    raise ArchitectureError(
        f"{where} must be JSON data, but holds a {type(value).__name__}: {shown(value)}. "
        f"Convert it first (tensors and arrays with .tolist())."
    )


def check_text(text: str, where: str) -> str:
    """Return `text` if UTF-8 can write it."""
    if not is_unicode(text):
        raise ArchitectureError(f"{where}: {shown(text)} holds half a surrogate pair. Write whole characters.")
    return text


def is_unicode(text: str) -> bool:
    """Whether UTF-8 can write the text; it cannot where bytes of a file's name were no UTF-8 (PEP 383)."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def thaw(value: Any) -> Any:
    """Return frozen data as plain dicts and lists."""
    if isinstance(value, Mapping):
        return {key: thaw(element) for key, element in value.items()}
    if isinstance(value, tuple):
        return [thaw(element) for element in value]
    return value


def natural_order(name: str) -> tuple[list[tuple[int, str]], str]:
    """Return a sort key that puts node 10 after node 9."""
    parts = []
    for part in re.findall("[0-9]+|[^0-9]+", name):
        if part[0] in "0123456789":
            digits = part.lstrip("0")
            parts.append((len(digits), digits))  # by length, then by digits: no integer is built from foreign text
        else:
            parts.append((MAX_TEXT_BYTES + 1, part))
    return parts, name


def format_json(value: Any, *, expanded: int = 2) -> str:
    """Return JSON text with one row (a node's edges, an edge's alphas) per line.

    Args:
        value: Frozen or plain JSON data.
        expanded: Objects in this many outer levels always take a line per key.
    """
    return _format(value, "", expanded) + "\n"


def _format(value: Any, indent: str, expanded: int) -> str:
    inner = indent + "  "
    if isinstance(value, Mapping):
        if not value or (expanded <= 0 and not any(isinstance(v, (Mapping, tuple, list)) for v in value.values())):
            return "{" + ", ".join(f"{_dump(k)}: {_dump(v)}" for k, v in value.items()) + "}"
        rows = [f"{inner}{_dump(k)}: {_format(v, inner, expanded - 1)}" for k, v in value.items()]
        return "{\n" + ",\n".join(rows) + f"\n{indent}}}"
    if isinstance(value, (tuple, list)):
        if _is_row(value) or all(isinstance(element, (tuple, list)) and _is_row(element) for element in value):
            return _dump(value)
        rows = [inner + _format(element, inner, expanded - 1) for element in value]
        return "[\n" + ",\n".join(rows) + f"\n{indent}]"
    return _dump(value)


def _is_row(values: tuple[Any, ...] | list[Any]) -> bool:
    return not any(isinstance(value, (Mapping, tuple, list)) for value in values)


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
