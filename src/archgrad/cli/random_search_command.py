"""`archgrad random-search`: the baseline of a search, at the same cost."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from archgrad.cli import data as data_options
from archgrad.cli import spaces as space_options
from archgrad.cli.commands import COMMANDS
from archgrad.cli.common_options import add_run_options, kept, parse, settled_folder, show_first
from archgrad.cli.inherit import retraining_of
from archgrad.cli.own_code import own_again
from archgrad.cli.parser import Parser
from archgrad.errors import OptionError
from archgrad.random_search import RandomSearchOptions, random_search
from archgrad.report.read import read_run
from archgrad.runs import Interrupted
from archgrad.show import to_text
from archgrad.terminal import say

__all__ = ["make_parser", "run"]

_FIRST = ("space", "data", "candidates", "minutes", "cost_of", "epochs", "channels", "cells", "seed", "out")


def make_parser() -> Parser:
    """Return the parser: the options of `archgrad.random_search`, and those that choose its space and data."""
    parser = Parser("random-search", COMMANDS["random-search"])
    space_options.add_space_options(parser, stage="search")
    data_options.add_data_options(parser)
    add_run_options(parser, "random-search")
    parser.add_argument(
        "--cost-of",
        type=str | None,
        metavar="RUN",
        help="Take as long as the search in this folder took, in the place of --minutes.",
    )
    parser.passed_on = parser.add_options_of(
        RandomSearchOptions, "random search", skip=("run_dir", "resume", "space", "data", "config")
    )
    show_first(parser, _FIRST)
    return parser


def run(arguments: Sequence[str]) -> int:
    """Search at random, and say what came out."""
    parser = make_parser()
    values = parse(parser, arguments, command="random-search")
    space_options.with_space(values, arguments)
    values["data"] = data_options.settled_name(values["data"])
    if values["cost_of"] is not None and values["resume"] is None:
        values["minutes"] = _minutes_of(values)
    data = data_options.open_data(values)
    space, sizes = space_options.typed_space(values, data, stage="search")
    out = settled_folder(
        values, f"{space_options.label_of(values['space'])}-{data_options.label_of(values['data'])}-random"
    )
    try:
        result = random_search(
            space,
            data,
            run_dir=out,
            resume=values["resume"] is not None,
            config={**{name: value for name, value in kept(values).items() if name != "cost_of"}, **sizes},
            **{name: values[name] for name in parser.passed_on},
        )
    except Interrupted as interruption:
        folder = shlex.quote(str(out))
        say(
            f"Random search {interruption}; its state is saved. Go on with it:\n"
            f"  archgrad random-search --resume {folder}{own_again(values)}"
        )
        raise
    name = next(name for name in result.history.columns if name.startswith("best_valid_"))
    best, metric = result.history.last(name) or 0.0, name.removeprefix("best_valid_").replace("_", " ")
    value = f"{100 * best:.2f} %" if metric == "accuracy" else f"{best:.4g}"
    say(
        f"\n{to_text(result.architecture)}\n"
        f"Candidates:    {len(result.history.epochs)}, the best with a validation {metric} of {value}\n"
        f"Run folder:    {out}\n"
        f"Next:\n"
        f"  {retraining_of(out, result.architecture, values)}\n",
        end="",
    )
    return 0


def _minutes_of(values: dict[str, Any]) -> float:
    if values["minutes"] is not None or values["candidates"] is not None:
        raise OptionError("--cost-of says how long the random search takes. Leave out --minutes and --candidates.")
    seconds = sum(read_run(Path(values["cost_of"]), max_frames=2).timings.columns.get("seconds", ()))
    if not seconds:
        raise OptionError(f"The run in '{values['cost_of']}' does not say how long it took. Give --minutes.")
    return seconds / 60
