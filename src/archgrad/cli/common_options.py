"""From arguments to the values of a command: its defaults, then a config file or an earlier run, then what is typed."""

from __future__ import annotations

import argparse
import difflib
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from archgrad.cli.dotted import split_dotted
from archgrad.cli.parser import Parser, dashed
from archgrad.distributed import rank, restarted
from archgrad.engine import OF_ONE_CALL
from archgrad.errors import OptionError, RunError
from archgrad.json_text import shown, shown_text
from archgrad.rank_state import send_state
from archgrad.runs import read_config
from archgrad.search.short_forms import modernised
from archgrad.terminal import say

__all__ = ["NOT_KEPT", "add_run_options", "first_free", "kept", "parse", "settled_folder", "show_first"]

_LONGEST_PATH = 4096
NOT_KEPT = (*OF_ONE_CALL, "out", "dotted", "stored_method")
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
        help="Go on with the run in this folder, with its own options; nothing else need be given.",
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
    arguments, dotted = split_dotted(arguments, ("space", *parts))
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--config")
    first.add_argument("--resume")
    first.add_argument("--space")
    try:
        places, _ = first.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        parser.error(str(error))
    if places.config and places.resume:
        raise OptionError("--resume takes the options of its run, so it does not go with --config. Leave one out.")
    if places.resume:
        file = Path(places.resume) / "config.yaml"
        if not os.path.isfile(file):  # False where the name is too long, which is_file() raises
            raise RunError(f"Cannot resume '{places.resume}': it holds no config.yaml, so it is no run folder.")
        stored = _read(parser, file, command, parts)
        if stored.get("space") is None:
            raise OptionError(
                f"The run in '{places.resume}' was started from Python: its config.yaml does not name a space. Go on "
                f"with it there, with resume=True."
            )
    else:
        stored = _read(parser, Path(places.config), command, parts) if places.config else {}
    own = str(stored.get("space") or "")[:_LONGEST_PATH]
    if ":" in own and places.space is None:
        raise OptionError(
            f"The {'run' if places.resume else 'config'} names a space of somebody's own, {own!r}, which is run as "
            f"Python. Nothing that a file names is run unless you name it too: add --space '{own}'."
        )
    tree = stored.pop("method") if isinstance(stored.get("method"), Mapping) else None
    space = dict(stored.pop("space_options", None) or {})
    start = parser.parse_object(stored) if stored else None
    values: dict[str, Any] = parser.parse_args(list(arguments), namespace=start).as_dict()
    values |= {"stored_method": tree, "dotted": [option for option in dotted if option.path[0] != "space"]}
    space |= {option.path[1]: option.value for option in dotted if option.path[0] == "space"}
    if space:
        values["space_options"] = space
    if values["resume"] and (values["out"] or values["overwrite"]):
        raise OptionError("--resume goes on in the run's own folder, so it does not go with --out or --overwrite.")
    if values["overwrite"] and not values["out"]:
        raise OptionError("--overwrite needs the folder of the run that is to be replaced. Give --out.")
    return values


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
        if name not in known and name != "space_options":
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise OptionError(f"'{file}' holds {shown(name)}, which is no option of 'archgrad {command}'.{hint}")
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
    return {name: value for name, value in values.items() if name not in NOT_KEPT}


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
