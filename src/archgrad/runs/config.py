"""The `config.yaml` of a run: plain data in, plain data out, and the difference between two of them in words."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from archgrad.errors import RunError
from archgrad.files import Guard, read_explained, write_text
from archgrad.json_text import shown, shown_text

__all__ = ["config_difference", "plain_config", "read_config", "write_config"]

_MAX_BYTES = 256 * 1024  # a hundred times what archgrad's own options take; reading as much takes two seconds
_MAX_DEPTH = 20
_MAX_INTEGER_BITS = 256


def plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration as the nested dicts, lists and scalars that YAML holds: tuples as lists, paths as str.

    Raises:
        RunError: A value is of another kind, such as an object or a tensor.
    """
    result = _plain(dict(config), "config", 0)
    assert isinstance(result, dict)
    return result


def _plain(value: Any, where: str, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise RunError(f"{where} nests deeper than {_MAX_DEPTH} levels, or holds itself. Flatten it.")
    if value is None or type(value) in (bool, float, str):
        return value
    if type(value) is int:
        if value.bit_length() > _MAX_INTEGER_BITS:
            raise RunError(f"{where} is an integer of more than {_MAX_INTEGER_BITS} bits; give a smaller one.")
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        for key in value:
            if type(key) is not str:
                raise RunError(f"{where} has the key {shown(key)}, but the names of options are str. Quote it.")
        return {key: _plain(item, f"{where}.{key}", depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{where}[{i}]", depth + 1) for i, item in enumerate(value)]
    raise RunError(
        f"{where} is a {type(value).__qualname__}, which config.yaml cannot hold. Give text, a number or a list."
    )


def write_config(path: Path, config: Mapping[str, Any], *, guard: Guard | None = None) -> None:
    """Write a configuration as YAML, atomically, options in the order given."""
    # Everything outside ASCII is escaped and no line folded: PyYAML does not read back all that it writes otherwise.
    text = yaml.safe_dump(plain_config(config), sort_keys=False, allow_unicode=False, width=2**30)
    if len(text) > _MAX_BYTES:
        longest = max(config, key=lambda name: len(repr(config[name])))
        raise RunError(
            f"The options of a run may take {_MAX_BYTES} bytes in config.yaml, but these take {len(text)}, most of "
            f"them {shown(longest)}. Keep large values in a file of your own, and its name in the options."
        )
    write_text(path, text, guard=guard)


def read_config(path: Path) -> dict[str, Any]:
    """Read a `config.yaml` by safe loading, which builds plain data only.

    Raises:
        RunError: The file is missing, too large, no YAML, or holds something other than options and their values.
    """
    content = read_explained(path, most=_MAX_BYTES)
    try:
        config = yaml.load(content.decode("utf-8"), Loader=_Loader)
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        # The safe constructors raise these for scalars that do not fit an explicit tag, such as "!!int x".
        raise RunError(f"'{path}' is no valid YAML: {_reason(error)}. Mend it.") from error
    if not isinstance(config, dict):
        raise RunError(
            f"'{path}' must hold options and their values, but it holds {type(config).__name__}. Take an intact copy."
        )
    try:
        return plain_config(config)
    except RunError as error:
        raise RunError(f"'{path}' is no configuration: {error}") from None


def _reason(error: Exception) -> str:
    """Say on one line what the parser says on several, with a picture of the line."""
    if isinstance(error, UnicodeDecodeError):
        return f"it must be UTF-8 text, but byte {error.start} is not"
    if isinstance(error, RecursionError):
        return f"it nests deeper than {_MAX_DEPTH} levels"
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error) or type(error).__name__
    return shown_text(problem) + (f" in line {mark.line + 1}, column {mark.column + 1}" if mark is not None else "")


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: Any, index: Any) -> Any:
        # A few nested aliases expand to any amount of data; archgrad writes none.
        if self.check_event(yaml.events.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(None, None, "aliases are not allowed in config.yaml", event.start_mark)
        return super().compose_node(parent, index)


def config_difference(old: Mapping[str, Any], new: Mapping[str, Any], *, may_differ: Collection[str] = ()) -> list[str]:
    """Return one line per option that two configurations hold differently.

    An option that is in one of them alone, as where the versions of archgrad differ, counts there as None or False.

    Args:
        old: The run's configuration.
        new: The configuration asked for.
        may_differ: Top-level options that are left out of the comparison, because the result does not depend on them.

    Returns:
        Lines such as "epochs: the run has 50, asked for 60"; empty when they agree.
    """
    lines: list[str] = []
    for key in [*old, *(key for key in new if key not in old)]:
        has, asked = old.get(key, _ABSENT), new.get(key, _ABSENT)
        off_in_one = _ABSENT in (has, asked) and any(value is None or value is False for value in (has, asked))
        if key not in may_differ and not off_in_one:
            _compare(key, has, asked, lines)
    return lines


class _Absent:
    def __repr__(self) -> str:
        return "nothing"


_ABSENT = _Absent()


def _compare(where: str, old: Any, new: Any, lines: list[str]) -> None:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*old, *(key for key in new if key not in old)]:
            _compare(f"{where}.{key}", old.get(key, _ABSENT), new.get(key, _ABSENT), lines)
    elif not _same(old, new):
        lines.append(f"{shown_text(where)}: the run has {shown(old)}, asked for {shown(new)}")


def _same(old: Any, new: Any) -> bool:
    if isinstance(old, float) and isinstance(new, float) and math.isnan(old) and math.isnan(new):
        return True
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(_same(a, b) for a, b in zip(old, new, strict=True))
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return old.keys() == new.keys() and all(_same(old[key], new[key]) for key in old)
    # 1 and 1.0 mean the same learning rate; True and 1 do not mean the same option.
    return isinstance(old, bool) == isinstance(new, bool) and bool(old == new)
