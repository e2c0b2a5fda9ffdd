"""`archgrad search`: options in, architecture and run folder out."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from archgrad.architecture import last_of_run
from archgrad.cli import data as data_options
from archgrad.cli import spaces as space_options
from archgrad.cli.commands import COMMANDS
from archgrad.cli.common_options import add_run_options, kept, parse, settled_folder, show_first
from archgrad.cli.inherit import retraining_of
from archgrad.cli.member_processes import check_alone, members_as_processes
from archgrad.cli.method_options import OF_THE_METHOD, add_method_options, make_method
from archgrad.cli.own_code import own_again
from archgrad.cli.parser import Parser
from archgrad.cli.parts import RELAXATIONS, STEPS, add_parts
from archgrad.distributed import local_rank_zero_first, process_group, raise_on_all_ranks, rank
from archgrad.fast.malloc import keep_freed_memory
from archgrad.methods.tree import KINDS
from archgrad.runs import Interrupted
from archgrad.search import SearchResult, search
from archgrad.search.search_options import SearchOptions
from archgrad.search.side_by_side import FOLDER, search_side_by_side
from archgrad.show import to_text
from archgrad.terminal import say

__all__ = ["arguments_of", "make_parser", "run"]

_DEFAULTS = "The defaults are the paper's, for a GPU; to try it on two cores: --channels 4 --cells 3 --epochs 5."

_FIRST = ("space", "data", "method", "channels", "cells", "epochs", "batch_size", "seed", "device", "out")


def make_parser() -> Parser:
    """Return the parser: the options of `archgrad.search`, and what chooses its space, data, step and relaxation."""
    parser = Parser("search", f"{COMMANDS['search']} {_DEFAULTS}")
    space_options.add_space_options(parser, stage="search")
    data_options.add_data_options(parser)
    add_run_options(parser, "search")
    add_method_options(parser)
    parser.add_argument(
        "--jobs",
        type=int | None,
        help="Run so many members of an ensemble at the same time, each as a process and a run folder of its own in "
        "members/, with its share of the threads; the result is the same. By default one after the other in one "
        "process.",
    )
    add_parts(parser, "step", STEPS, default="first-order")
    add_parts(parser, "relaxation", RELAXATIONS, default="softmax")
    parser.passed_on = parser.add_options_of(
        SearchOptions, "search", skip=("run_dir", "resume", "space", "data", "step", "relaxation", "budget")
    )
    show_first(parser, _FIRST)
    return parser


def run(arguments: Sequence[str]) -> int:
    """Search, and say what came out."""
    parser = make_parser()
    values = parse(parser, arguments, command="search", parts=tuple(KINDS))
    keep_freed_memory()
    space_options.with_space(values, arguments)
    with process_group():
        _run(parser, values)
    return 0


def arguments_of(parser: Parser, values: dict[str, Any]) -> dict[str, Any]:
    """Return what `archgrad.search` is told by the options, but for its run folder.

    Args:
        parser: As `make_parser` gives it.
        values: Of the command line; names of space and data are settled.

    Raises:
        OptionError: There is no such space or part, or an option does not go with the others.
        DataError: The data is not there, or damaged.
    """
    values["space"] = space_options.settled_name(values["space"])
    values["data"] = data_options.settled_name(values["data"])
    method = make_method(values)
    with raise_on_all_ranks(), local_rank_zero_first():
        data = data_options.open_data(values)
    space, sizes = space_options.typed_space(values, data, stage="search")
    of_stage = method.stages[0].space
    sizes |= {name: of_stage[name] for name in sizes if name in of_stage}
    config = {name: value for name, value in kept(values).items() if name not in OF_THE_METHOD}
    return {
        "space": space,
        "data": data,
        "method": method,
        "config": {**config, **sizes},
        **{name: values[name] for name in parser.passed_on if name not in OF_THE_METHOD},
    }


def _run(parser: Parser, values: dict[str, Any]) -> None:
    arguments = arguments_of(parser, values)
    out = settled_folder(values, _name(values))
    try:
        arguments |= {"run_dir": out, "resume": values["resume"] is not None}
        if values["jobs"] is None and not (values["resume"] and (out / FOLDER).is_dir()):
            result = search(**arguments)
        else:
            check_alone(values)
            options = SearchOptions(**arguments)
            result = search_side_by_side(options, members_as_processes(values, out))
    except Interrupted as interruption:
        if rank() == 0:
            say(
                f"Search {interruption}; its state is saved. Go on with it:\n  archgrad search --resume {_quoted(out)}"
                f"{own_again(values)}"
            )
        raise
    if rank() == 0:
        say(_summary(result, out, values), end="")


def _name(values: dict[str, Any]) -> str:
    return f"{space_options.label_of(values['space'])}-{data_options.label_of(values['data'])}"


def _summary(result: SearchResult, out: Path, values: dict[str, Any]) -> str:
    file = last_of_run(out)
    return (
        f"\n{to_text(result.architecture)}\n"
        f"Run folder:    {out}\n"
        f"Architecture:  {file}\n"
        f"Next:\n"
        f"  {retraining_of(file, result.architecture, values)}\n"
        f"  archgrad report {_quoted(out)}\n"
    )


def _quoted(text: str | Path) -> str:
    return shlex.quote(str(text))
