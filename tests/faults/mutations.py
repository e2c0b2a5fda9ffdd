"""Valid files made hostile: by bytes, and by the grammar of JSON, YAML, CSV, text and safetensors."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from typing import Any

__all__ = ["MUTATIONS", "Raw", "any_value", "mutate_bytes", "mutate_value"]


class Raw(str):
    """Text that a JSON file holds as it is, such as a number that Python would not write."""


_NUMBERS = [
    "1e999", "-1e999", "NaN", "Infinity", "1e-400", "-0", "-1", "0", "1", "2", "9" * 400, str(2**31), str(2**63),
    str(-(2**63) - 1), str(2**64), "1.5", "200000", "20000", "1e308", "0.1", "9" * 5000,
]  # fmt: skip
_WORDS = [
    "", "x", "\n", "\r", "\u2028", "\x85", "\x1c", "\0", "../../etc/passwd", "/etc/passwd", "~", "~nobody/x", "%s%n",
    "{0}", "[bold]", "</script><script>", "a" * 200, "\u202e", "\u0301" * 50, "\U0001f600", "${HOME}", "'", '"', ",",
    "epoch", "none", "__class__", "!!python/object/apply:os.system", "folder:/nowhere", "a\tb", "Genotype(", "=1+1",
    "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|", "archgrad.spaces:tiny", "1e999", "\udcff",
]  # fmt: skip
_BYTES = [b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff", b"\xc3\x28\xa0\xa1", b"\x80" * 4]


def any_value(draw: random.Random) -> Any:
    """A value that no program expects."""
    kind = draw.randrange(8)
    if kind < 3:
        return Raw(draw.choice(_NUMBERS))
    if kind < 5:
        word = draw.choice(_WORDS)
        return word * draw.choice([1, 1, 1, 40, 20_000]) if len(word) < 10 else word
    if kind == 5:
        depth = draw.choice([3, 60, 900, 20_000])
        return Raw(draw.choice(["[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth]))
    if kind == 6:
        return draw.choice([None, True, False, [], {}, [None], [[]], {"": None}])
    return [any_value(draw) for _ in range(draw.randrange(3))] if draw.random() < 0.7 else [0] * 20_000


def mutate_value(value: Any, draw: random.Random) -> Any:
    """Change one place in nested data: another value, another key, one less, one twice, or two places exchanged."""
    places: list[tuple[Any, Any]] = []
    stack = [value]
    while stack:
        outer = stack.pop()
        if isinstance(outer, (dict, list)):
            keys = list(outer) if isinstance(outer, dict) else list(range(len(outer)))
            places += [(outer, key) for key in keys]
            stack += [outer[key] for key in keys]
    if not places or draw.random() < 0.02:
        return any_value(draw)
    outer, key = draw.choice(places)
    kind = draw.randrange(10)
    if kind < 5:
        outer[key] = any_value(draw)
    elif kind == 5:
        del outer[key]
    elif kind == 6:
        other, other_key = draw.choice(places)
        if isinstance(other, dict) and other_key not in other:
            return value
        outer[key], other[other_key] = other[other_key], outer[key]
        return value if _depth_is_finite(value) else any_value(draw)
    elif isinstance(outer, dict):
        outer[draw.choice([*_WORDS, "1", "2", "10000", "concat"])] = outer[key] if kind < 9 else outer.pop(key)
    else:
        outer.insert(key, any_value(draw))
    return value


def _depth_is_finite(value: Any, depth: int = 0) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth < 40 and all(_depth_is_finite(part, depth + 1) for part in inner)


def dump(value: Any) -> str:
    """Write JSON with what JSON does not allow where the data says so."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(key))}: {dump(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(dump, value)) + "]"
    return json.dumps(value, ensure_ascii=isinstance(value, str) and len(value) % 2 == 0)


def mutate_bytes(content: bytes, draw: random.Random) -> bytes:
    """Flip bits, cut, repeat, leave out, splice, or write what a decoder trips over."""
    data = bytearray(content or b"\0")
    for _ in range(draw.choice([1, 1, 1, 2, 5, 20])):
        place = draw.randrange(len(data) or 1)
        length = draw.choice([1, 2, 4, 8, 100, 5000])
        kind = draw.randrange(8)
        if kind < 2 and data:
            data[place] ^= 1 << draw.randrange(8)
        elif kind == 2:
            data = data[:place]
        elif kind == 3:
            del data[place : place + length]
        elif kind == 4:
            data[place:place] = data[place : place + length] * draw.choice([1, 2, 50])
        elif kind == 5:
            other = draw.randrange(len(data) or 1)
            data[place : place + length] = data[other : other + length]
        elif kind == 6:
            data[place : place + 4] = draw.choice(
                [b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff", b"\xc3\x28\xa0\xa1", b"\x80" * 4]
            )
        else:
            data[place:place] = draw.choice(_WORDS).encode("utf-8", "surrogatepass")
    return bytes(data)


def _json(content: bytes, draw: random.Random) -> bytes:
    value = json.loads(content)
    for _ in range(draw.choice([1, 1, 2, 4])):
        value = mutate_value(value, draw)
    return dump(value).encode("utf-8", "surrogatepass")


_YAML = [
    "!!int x", "!!float .nan", "!!binary x", "!!timestamp 2001", "&a [*a]", "!!set {a, b}", "!!omap []", "2001-01-01",
    "1:59:59", "0x" + "f" * 900, "? [a]\n: b", "<<: {a: 1}", "|\n  x", "'", "@", "%", "\t", "- - - -", "... ", "--- ",
]  # fmt: skip


def _yaml(content: bytes, draw: random.Random) -> bytes:
    lines = content.decode("utf-8").split("\n")
    for _ in range(draw.choice([1, 1, 2, 5])):
        place = draw.randrange(len(lines))
        name = lines[place].partition(":")[0]
        kind = draw.randrange(6)
        if kind < 3:
            lines[place] = f"{name}: {dump(any_value(draw))}"
        elif kind == 3:
            lines[place] = f"{name}: {draw.choice(_YAML)}"
        elif kind == 4:
            lines.insert(
                place, draw.choice([lines[draw.randrange(len(lines))], draw.choice(_WORDS), "  " + lines[place]])
            )
        else:
            del lines[place]
            lines = lines or [""]
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def _csv(content: bytes, draw: random.Random) -> bytes:
    rows = [line.split(",") for line in content.decode("utf-8").split("\n")]
    for _ in range(draw.choice([1, 1, 2, 5])):
        row = draw.choice(rows[:2] if draw.random() < 0.5 else rows)
        kind = draw.randrange(5)
        if kind < 3:
            row[draw.randrange(len(row))] = draw.choice([*_NUMBERS, *_WORDS, "x" * 200_000, '"', "é" * 300])
        elif kind == 3:
            row.insert(draw.randrange(len(row)), draw.choice(row))
        else:
            rows.insert(draw.randrange(len(rows)), list(row) * draw.choice([1, 1, 1, 2000]))
    return "\n".join(",".join(row) for row in rows).encode("utf-8", "surrogatepass")


def _text(content: bytes, draw: random.Random) -> bytes:
    text = content.decode("utf-8")
    for _ in range(draw.choice([1, 2, 4])):
        place, end = sorted(draw.randrange(len(text) + 1) for _ in range(2))
        part = draw.choice([text[place:end], "(" * 5000, "[" * 40, "#", "\n", "range(2, 6)", "9" * 30, "'", *_WORDS])
        text = text[:place] + part + text[draw.choice([place, end]) :]
    return text.encode("utf-8", "surrogatepass")


def _safetensors(content: bytes, draw: random.Random) -> bytes:
    (length,) = struct.unpack_from("<Q", content)
    header = content[8 : 8 + length].strip()
    changed = _json(header, draw) if header.startswith(b"{") else mutate_bytes(header, draw)
    length = draw.choice([len(changed)] * 8 + [0, 2**63, len(changed) + 1])
    return struct.pack("<Q", length) + changed + content[8 + struct.unpack_from("<Q", content)[0] :]


MUTATIONS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    ".json": _json,
    ".yaml": _yaml,
    ".csv": _csv,
    ".txt": _text,
    ".safetensors": _safetensors,
}
"""Ending of a file's name -> what knows its grammar."""


def mutate(name: str, content: bytes, draw: random.Random) -> bytes:
    """Make a file hostile, mostly by its grammar where that is known."""
    by_grammar = MUTATIONS.get(name[name.rfind(".") :])
    if by_grammar is None or draw.random() < 0.35:
        return mutate_bytes(content, draw)
    return by_grammar(content, draw)
