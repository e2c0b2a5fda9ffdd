"""From arguments to the values of a command: its defaults, then a config file or an earlier run, then what is typed."""

from __future__ import annotations

import argparse
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from archgrad.cli.dotted import split_dotted
from archgrad.cli.own_code import settled_own, stored_options
from archgrad.cli.parser import Parser, dashed
from archgrad.distributed import rank, restarted
from archgrad.engine import OF_ONE_CALL
from archgrad.errors import OptionError, RunError, did_you_mean
from archgrad.fast import asked_path
from archgrad.json_text import shown, shown_text
from archgrad.options import names_of
from archgrad.rank_state import send_state
from archgrad.runs import read_config
from archgrad.search.short_forms import modernised
from archgrad.tasks import TaskOptions
from archgrad.terminal import say
from archgrad.typed_names import OWN_KINDS, is_own

__all__ = ["NOT_KEPT", "add_run_options", "first_free", "kept", "parse", "settled_folder", "show_first"]

_LONGEST_PATH = 4096
_AUTO = "auto"
_LISTED = ("metrics", "class_weights")
"""Options that are typed with commas, and may be lists in a file."""
_OPTIONS = [f"{kind}_options" for kind in OWN_KINDS]
NOT_KEPT = (*OF_ONE_CALL, "out", "dotted", "stored_method", "jobs")
"""What says where and how a run is shown, and so has no place in its config.yaml."""


def add_run_options(parser: Parser, command: str) -> None:
    """Add `--out`, `--resume` and `--config`."""
    group = parser.add_argument_group("run folder")
    group.add_argument(
        "--out",
        type=str | None,
        help="Run folder, new or empty. By default the first free number in runs/, which is printed.",
    )
    group.add_argument(
        "--resume",
        type=str | None,
        metavar="RUN",
        help=f"Go on with the run in this folder, with its own options; nothing else need be given. '{_AUTO}' is for "
        f"scripts that are started again and again: go on with the run in the folder of --out if there is one, else "
        f"begin it there (a folder of that name is ./{_AUTO}).",
    )
    group.add_argument(
        "--config",
        type=str | None,
        metavar="FILE",
        help=f"YAML file of options, such as the config.yaml of an earlier {command}. What is typed beside it wins.",
    )


def parse(parser: Parser, arguments: Sequence[str], *, command: str, parts: Collection[str] = ()) -> dict[str, Any]:
    """Return the value of every option.

    Args:
        parser: With the options of `add_run_options`.
        arguments: What was typed after the command.
        command: Which config files must be of.
        parts: The kinds of parts whose options may be typed with a dot, beside those of the space.

    Raises:
        OptionError: A config file holds something that is no option, belongs to another command, or names a space that
            is no part of archgrad and was not typed.
        RunError: A config file cannot be read.
        SystemExit: Usage error, or --help.
    """
    arguments, dotted = split_dotted(arguments, (*OWN_KINDS, *parts))
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("config", "resume", "out", "recipe", *OWN_KINDS):
        first.add_argument(f"--{name}")
    try:
        places, _ = first.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        parser.error(str(error))
    resumed = _resumed(places)
    stored: dict[str, Any] = {}
    if resumed:
        stored = _read(parser, Path(resumed) / "config.yaml", command, parts)
        if stored.get("space") is None:
            raise OptionError(
                f"The run in '{resumed}' was started from Python: its config.yaml does not name a space. Go on "
                f"with it there, with resume=True."
            )
    if places.config:
        stored |= _read(parser, Path(places.config), command, parts)
    of_file, of_typed = (parser.recipes.get(str(name), {}) for name in (stored.get("recipe"), places.recipe))
    stored = {**of_file, **stored, **of_typed}
    options = {kind: _stored_options(kind, stored, getattr(places, kind), resumed) for kind in OWN_KINDS}
    tree = stored.pop("method") if isinstance(stored.get("method"), Mapping) else None
    budget = stored.pop("budget", None)  # which a parser that gathers what is typed again does not take from a file
    start = parser.parse_object(stored) if stored else None
    values: dict[str, Any] = parser.parse_args(list(arguments), namespace=start).as_dict()
    if budget is not None and values["budget"] is None:
        values["budget"] = budget
    if isinstance(values.get("fast"), bool):  # as a flag, or in a config of before there were words
        values["fast"] = asked_path(values["fast"])
    values |= {"stored_method": tree, "dotted": [option for option in dotted if option.path[0] not in OWN_KINDS]}
    for kind in OWN_KINDS:
        typed = {option.path[1]: option.value for option in dotted if option.path[0] == kind}
        if options[kind] | typed:
            values[f"{kind}_options"] = options[kind] | typed
    if places.resume == _AUTO:
        if values["overwrite"]:
            raise OptionError(f"--resume {_AUTO} goes on with a run and --overwrite removes it. Give one of them.")
        values |= {"resume": resumed, "out": None if resumed else values["out"]}
    if values["resume"] and (values["out"] or values["overwrite"]):
        raise OptionError("--resume goes on in the run's own folder, so it does not go with --out or --overwrite.")
    if values["overwrite"] and not values["out"]:
        raise OptionError("--overwrite needs the folder of the run that is to be replaced. Give --out.")
    return values


def _resumed(places: argparse.Namespace) -> str | None:
    """Return the folder of the run that goes on, if one does."""
    if places.resume == _AUTO:
        if not places.out:
            raise OptionError(
                f"--resume {_AUTO} needs the folder where the run is or begins. Give --out; a folder of that name is "
                f"--resume ./{_AUTO}."
            )
        return places.out if os.path.isfile(Path(places.out) / "config.yaml") else None
    if places.config and places.resume:
        raise OptionError("--resume takes the options of its run, so it does not go with --config. Leave one out.")
    # False where the name is too long, which is_file() raises
    if places.resume and not os.path.isfile(Path(places.resume) / "config.yaml"):
        raise RunError(f"Cannot resume '{places.resume}': it holds no config.yaml, so it is no run folder.")
    return places.resume or None


def _stored_options(kind: str, stored: dict[str, Any], typed: str | None, resumed: str | None) -> dict[str, Any]:
    """Take the options of a space or of data out of a file, which must not name code that is not typed, too."""
    options, own = stored_options(kind, stored), stored.get(kind)
    stored.pop(f"{kind}_options", None)
    if is_own(own) and typed is None:
        raise OptionError(
            f"The {'run' if resumed else 'config'} names {'a space' if kind == 'space' else kind} of somebody's own, "
            f"{own[:_LONGEST_PATH]!r}, which is run as Python. Nothing that a file names is run unless you name it "
            f"too: add --{kind} '{own[:_LONGEST_PATH]}'."
        )
    another = typed is not None and (settled_own(typed) if is_own(typed) else typed) != own
    return {} if another else options


def _read(parser: Parser, file: Path, command: str, parts: Collection[str]) -> dict[str, Any]:
    stored = read_config(file)
    stored = modernised(stored) if command == "search" else stored
    found = stored.pop("command", command)
    if found != command:
        raise OptionError(
            f"'{file}' holds the options of 'archgrad {shown_text(str(found))}', not of 'archgrad {command}'."
        )
    known = [action.dest for action in parser._actions if action.dest not in ("config", "resume", "help")]
    for name in stored:
        if name in ("out", "overwrite"):
            raise OptionError(
                f"'{file}' says {name}, but where a run goes, and what is removed for it, is for you to type. Take it "
                f"out of the file, and give {dashed('--' + name)}."
            )
        if name not in known and name not in _OPTIONS:
            kind, _, option = str(name).partition(".")
            nested = option and f"{kind}_options" in _OPTIONS
            hint = f" Write '{kind}_options: {{{shown_text(option)}: ...}}'." if nested else did_you_mean(name, known)
            raise OptionError(f"'{file}' holds {shown(name)}, which is no option of 'archgrad {command}'.{hint}")
    for name in _LISTED:
        if isinstance(stored.get(name), list):  # as it would be typed
            stored[name] = ",".join(map(str, stored[name]))
    for name in parts:
        if isinstance(stored.get(name), Mapping | list):
            raise OptionError(
                f"'{file}' gives {name} with its options, which belongs under method:. Write 'method: {{{name}: ...}}'."
            )
    return stored


def show_first(parser: Parser, names: Sequence[str]) -> None:
    """Let `--help` begin with these options, which people set most, in one group."""
    group = parser.add_argument_group("set most often")
    for other in parser._action_groups:
        for action in [action for action in other._group_actions if action.dest in names]:
            other._group_actions.remove(action)
            group._group_actions.append(action)
    group._group_actions.sort(key=lambda action: names.index(action.dest))
    parser._action_groups[:] = [group, *(other for other in parser._action_groups if other is not group)]  # type: ignore[index]


def kept(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that go into config.yaml."""
    of_task = names_of(TaskOptions)  # which runs of earlier versions do not have
    return {
        name: value
        for name, value in values.items()
        if name not in NOT_KEPT and not (name in of_task and value is None)
    }


def settled_folder(values: Mapping[str, Any], name: str) -> Path:
    """Return the run folder, on every process the same: the one that was named, else the first free one, told at once.

    Args:
        values: Of the command line.
        name: What a folder that was not named is called, beside its number.
    """
    if named := values["resume"] or values["out"]:
        return Path(named)
    folder = Path(send_state(str(first_free(name))))
    if rank() == 0 and not values["quiet"]:
        say(f"Run folder:    {folder}")
    return folder


def first_free(name: str, parent: Path = Path("runs")) -> Path:
    """Return `parent/name-N` with the first number, from 1, that is not taken.

    Where torchrun has started the command again (`--max-restarts`) it is the last taken one: that of the first start.
    """
    number = 1
    while (parent / f"{name}-{number}").exists():
        number += 1
    if restarted() and number > 1:
        number -= 1
    return parent / f"{name}-{number}"
