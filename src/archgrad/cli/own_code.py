"""Code of a person's own, named on the command line as FILE.py:NAME or package.module:NAME, and its options."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import json
import os
import shlex
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from archgrad.cli.parser import dashed
from archgrad.errors import ArchgradError, OptionError
from archgrad.json_text import shown
from archgrad.paths import from_home
from archgrad.typed_names import OWN_KINDS, is_own

__all__ = [
    "find_own",
    "given_options",
    "own_again",
    "settled_own",
    "stored_options",
    "typed_again",
]


def settled_own(text: str) -> str:
    """Return a name of code that means the same from any folder: a file's path made absolute."""
    place, _, name = text.rpartition(":")
    return f"{from_home(place).absolute()}:{name}" if place.endswith(".py") else text


def find_own(text: str, *, what: str, error: type[ArchgradError]) -> Any:
    """Return what a name of code stands for; the file or module is run, once for all that is taken from it.

    Args:
        text: FILE.py:NAME or package.module:NAME.
        what: What it is to be, for messages.
        error: Raised where there is no such file, module or name.
    """
    place, _, name = text.rpartition(":")
    module = _run_file(Path(place), what, error) if place.endswith(".py") else _import(place, what, error)
    if not hasattr(module, name):
        raise error(f"'{place}' has no '{name}'. Name a class or function that it defines at its top level.")
    return getattr(module, name)


def given_options(
    kind: str,
    text: str,
    parameters: Mapping[str, inspect.Parameter],
    options: Mapping[str, Any],
    *,
    set_elsewhere: Collection[str] = (),
) -> dict[str, Any]:
    """Return the arguments that options with a dot stand for.

    Args:
        kind: What stands before the dot.
        text: What was named, for messages.
        parameters: Of the function or class that was named.
        options: As they were typed, without the kind.
        set_elsewhere: Parameters that have options of their own.

    Raises:
        OptionError: There is no such parameter, or the value is not of its type.
    """
    for name in options:
        if name not in parameters or name in set_elsewhere:
            known = ", ".join(_typed_name(kind, each) for each in parameters if each not in set_elsewhere)
            raise OptionError(f"The {kind} '{text}' has no option --{kind}.{name}. It has {known or 'none'}.")
    return {name: _of_type(kind, name, value, parameters[name].annotation) for name, value in options.items()}


def own_again(values: Mapping[str, Any]) -> str:
    """Return the options that a command needs beside --resume: code of one's own must be named again."""
    return "".join(f" --{kind} {shlex.quote(values[kind])}" for kind in OWN_KINDS if is_own(values[kind]))


def typed_again(kind: str, values: Mapping[str, Any]) -> str:
    """Return the options that set the same parameters of a space or of data again."""
    options = values.get(f"{kind}_options", {})
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in options.items()}
    return "".join(f" {_typed_name(kind, name)} {shlex.quote(text)}" for name, text in texts.items())


def stored_options(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a space or of data that a file of anyone's sets.

    Raises:
        OptionError: They are none.
    """
    options = config.get(f"{kind}_options") or {}
    if not isinstance(options, Mapping):
        raise OptionError(f"{kind}_options must be options and their values, but got {shown(options)}.")
    return dict(options)


def _typed_name(kind: str, name: str) -> str:
    return dashed(f"--{kind}.{name}")


def _of_type(kind: str, name: str, value: Any, annotation: Any) -> Any:
    """Return what was typed for a parameter, checked where its type is a plain one; a path is made absolute."""
    kinds: dict[str, Any] = {"int": int, "float": (int, float), "bool": bool, "str": str, "Path": (str, Path)}
    plain = str(getattr(annotation, "__name__", annotation)).rpartition(".")[2]
    expected = kinds.get(plain)
    if expected is not None and (not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool)):
        raise OptionError(f"{_typed_name(kind, name)} takes {annotation}, but got {value!r}.")
    if plain == "Path":
        return from_home(value).absolute()
    return tuple(value) if isinstance(value, list) else value


def _run_file(path: Path, what: str, error: type[ArchgradError]) -> ModuleType:
    try:
        content = path.read_bytes()
    except OSError as reason:
        raise error(f"The {what}'s file '{path}' does not exist or cannot be read. Check the path.") from reason
    # A name of its own, the same in every process, so that a file called random.py takes the place of no module.
    digest = hashlib.sha256(os.fsencode(path.absolute()) + b"\0" + content).hexdigest()[:16]
    name = f"_archgrad_own_{digest}_{path.stem}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None  # as the name ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # classes are looked up there when they are copied or pickled
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _import(name: str, what: str, error: type[ArchgradError]) -> ModuleType:
    with _working_folder():
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as reason:
            raise error(f"The {what}'s module '{name}' cannot be imported: {reason}. Check its name.") from reason


@contextmanager
def _working_folder() -> Iterator[None]:
    """Let modules be found in the working folder too, after all others, so that none there hides an installed one."""
    folder = str(Path.cwd())
    if "" in sys.path or folder in sys.path:
        yield
        return
    sys.path.append(folder)
    importlib.invalidate_caches()  # a file may be newer than the last look into the folder
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)
