"""`archgrad retrain`: an architecture in, a trained network and its run folder out."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from archgrad.architecture import Architecture
from archgrad.cli import data as data_options
from archgrad.cli import spaces as space_options
from archgrad.cli.commands import COMMANDS
from archgrad.cli.common_options import add_run_options, kept, parse, settled_folder, show_first
from archgrad.cli.inherit import inherit
from archgrad.cli.named_architectures import FORMS, open_architecture
from archgrad.cli.named_architectures import settled_name as settled_architecture
from archgrad.cli.own_code import own_again
from archgrad.cli.parser import Parser
from archgrad.data import Data
from archgrad.derive import derive
from archgrad.discretize import random_architecture
from archgrad.distributed import local_rank_zero_first, process_group, raise_on_all_ranks, rank
from archgrad.distributed.launch import find_launch
from archgrad.errors import OptionError
from archgrad.fast.malloc import keep_freed_memory
from archgrad.files import read_file
from archgrad.json_text import MAX_TEXT_BYTES
from archgrad.retrain import RetrainResult, retrain
from archgrad.retrain.recipe import RetrainOptions
from archgrad.retrain.recipes import RECIPE_IMAGES, RECIPES, RecipeName
from archgrad.runs import Interrupted, seeded
from archgrad.terminal import say

__all__ = ["arguments_of", "make_parser", "run"]

_RANDOM = "random"
_FIRST = ("arch", "recipe", "space", "data", "channels", "cells", "epochs", "batch_size", "seed", "device", "out")
_DEFAULTS = "The defaults are the paper's, for a GPU; to try it on two cores: --channels 8 --cells 3 --epochs 10."


def make_parser() -> Parser:
    """Return the parser: the options of `archgrad.retrain`, and those that choose its network and data."""
    parser = Parser("retrain", f"{COMMANDS['retrain']} {_DEFAULTS}")
    group = parser.add_argument_group("architecture")
    group.add_argument(
        "--arch",
        type=str | None,
        help=f"What to train: {FORMS}, or {_RANDOM} for one drawn from --space with --seed.",
    )
    group.add_argument(
        "--recipe",
        type=RecipeName | None,
        help="Options that are the defaults for --data folder:PATH of photographs: imagenet (as DARTS: batches of 128, "
        "learning rate 0.1 times 0.97 after each epoch) or imagenet-1024 (as P-DARTS and PC-DARTS: batches of 1024, "
        "learning rate 0.5 along a line to 0 after a warm-up), shared among the processes; both 250 epochs of random "
        "parts of 224x224 pixels with other colours, label smoothing, no drop path and no cutout. What is typed wins.",
    )
    space_options.add_space_options(parser, stage="retrain")
    data_options.add_data_options(parser)
    add_run_options(parser, "retrain")
    parser.passed_on = parser.add_options_of(RetrainOptions, "retrain", skip=("run_dir", "resume", "network", "data"))
    show_first(parser, _FIRST)
    parser.recipes = _recipes()
    return parser


def run(arguments: Sequence[str]) -> int:
    """Retrain, and say what came out."""
    parser = make_parser()
    values = parse(parser, arguments, command="retrain")
    if values["arch"] is None:
        raise OptionError(f"retrain needs an architecture: --arch with {FORMS}, or {_RANDOM}. Or --resume RUN.")
    if values["arch"] != _RANDOM:  # a run that goes on has its own copy
        values["arch"] = settled_architecture(values["arch"], may_be_gone=values["resume"] is not None)
    taken_over = inherit(values, arguments)
    values["data"] = data_options.settled_name(values["data"])
    keep_freed_memory()
    with process_group():
        _run(parser, values, taken_over)
    return 0


def _recipes() -> dict[str, dict[str, Any]]:
    """Return what each recipe says of this command's options; the processes that were launched share its batch."""
    launch = find_launch()
    processes = 1 if launch is None else launch.world_size
    return {
        name: {**recipe, **RECIPE_IMAGES, "batch_size": max(recipe["batch_size"] // processes, 1)}
        for name, recipe in RECIPES.items()
    }


def arguments_of(parser: Parser, values: dict[str, Any]) -> dict[str, Any]:
    """Return what `archgrad.retrain` is told by the options, but for its run folder.

    Args:
        parser: As `make_parser` gives it.
        values: Of the command line, data settled; the space is settled.

    Raises:
        OptionError: There is no such space or architecture, or an option does not go with the others.
        DataError: The data is not there, or damaged.
    """
    if values["recipe"] is not None and not values["data"].startswith("folder:"):
        raise OptionError(
            f"--recipe {values['recipe']} is for photographs in --data folder:PATH, but got --data {values['data']}. "
            f"Type those of its options that you want; `from archgrad.retrain import RECIPES` has them all."
        )
    with raise_on_all_ranks(), local_rank_zero_first():
        data = data_options.open_data(values)
    architecture = _architecture(values, data, None if values["resume"] is None else Path(values["resume"]))
    if values["space"] is None:
        values["space"] = architecture.space
    if values["space"] is None:
        raise OptionError("The architecture does not name its space. Give --space, as for the search.")
    values["space"] = space_options.settled_name(values["space"])
    network, sizes = _network(architecture, values, data)
    return {
        "network": network,
        "data": data,
        "architecture": architecture,
        "config": {**kept(values), **sizes},
        **{name: values[name] for name in parser.passed_on},
    }


def _run(parser: Parser, values: dict[str, Any], taken_over: str | None) -> None:
    given = arguments_of(parser, values)
    out = settled_folder(values, _name(values))
    if taken_over and rank() == 0 and not values["quiet"]:
        print(taken_over, flush=True)
    try:
        result = retrain(**given, run_dir=out, resume=values["resume"] is not None)
    except Interrupted as interruption:
        if rank() == 0:
            say(
                f"Retraining {interruption}; its state is saved. Go on with it:\n"
                f"  archgrad retrain --resume {shlex.quote(str(out))}{own_again(values)}"
            )
        raise
    if rank() == 0:
        say(_summary(result, out), end="")


def _architecture(values: dict[str, Any], data: Data, resumed: Path | None) -> Architecture:
    copy = None if resumed is None else resumed / "architecture.json"
    if copy is not None and copy.is_file():
        return Architecture.load(copy)  # the run's own copy, whatever has become of the original
    if values["arch"] != _RANDOM:
        return open_architecture(values["arch"])
    name = space_options.settled_name(values["space"] or space_options.default_space(values["data"]))
    # Only its choices are looked at, so it is built as small as can be.
    channels, cells = (2, 3) if name.startswith("darts-") else (None, None)
    build, _ = space_options.space_builder(
        name,
        data,
        stage="search",
        channels=channels,
        cells=cells,
        options=values.get("space_options", {}),
        outputs=space_options.outputs_of(values, data),
    )
    return random_architecture(build(), seed=values["seed"], name=name)


def _network(architecture: Architecture, values: dict[str, Any], data: Data) -> tuple[nn.Module, dict[str, int | None]]:
    with seeded(values["seed"]):
        auxiliary = values["auxiliary_weight"] > 0
        build, sizes = space_options.typed_space(values, data, stage="retrain", auxiliary=auxiliary)
        return derive(build(), architecture), sizes


def _name(values: dict[str, Any]) -> str:
    return f"{space_options.label_of(values['space'])}-{data_options.label_of(values['data'])}-retrain"


def _summary(result: RetrainResult, out: Path) -> str:
    costs = json.loads(read_file(out / "summary.json", most=MAX_TEXT_BYTES))
    title, value = _measured(result)
    unit = "sample" if costs["image_shape"] is None else "image"
    adds = "" if costs["multiply_adds"] is None else f", {costs['multiply_adds']:,} multiply-adds per {unit}"
    return (
        f"\n{title + ':':<15} {value}\n"
        f"Network:        {costs['parameters']:,} parameters{adds}\n"
        f"Run folder:     {out}\n"
        f"Weights:        {out / 'weights' / 'last.safetensors'}\n"
        f"Next:\n"
        f"  archgrad report {shlex.quote(str(out))}\n"
    )


def _measured(result: RetrainResult) -> tuple[str, str]:
    """Return the name and the value of what the task is measured by first."""
    best = "accuracy" if result.task is None else str(result.task.best)
    value = result.test_loss if best == "loss" else result.test_metrics.get(best)
    shown = "no test set" if value is None else f"{100 * value:.2f} %" if best == "accuracy" else f"{value:.4g}"
    return f"Test {best.replace('_', ' ')}", shown
