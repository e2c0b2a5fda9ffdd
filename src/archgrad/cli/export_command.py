"""`archgrad export`: the network of a retraining as a file that other programs run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from archgrad.cli.commands import COMMANDS
from archgrad.cli.data import open_data, settled_name
from archgrad.cli.dotted import split_dotted
from archgrad.cli.models import add_model_options, space_of_run
from archgrad.cli.own_code import stored_options
from archgrad.cli.parser import Parser
from archgrad.data import first_inputs
from archgrad.errors import OptionError
from archgrad.export import describe_run, export_onnx, export_program, load_retrained
from archgrad.export.inputs import Examples, nested_inputs
from archgrad.export.load import read_run_config
from archgrad.json_text import shown
from archgrad.terminal import say
from archgrad.typed_names import OF_LOADING

__all__ = ["make_parser", "run"]

_TENSOR = re.compile(r"(?:(?P<name>[^=]+)=)?(?P<sizes>(?:[0-9]+(?:x[0-9]+)*)?)(?::(?P<type>\w+))?")


def make_parser() -> Parser:
    """Return the parser."""
    parser = Parser("export", COMMANDS["export"], positional="RUN ")
    parser.add_argument("run", metavar="RUN", help="Run folder of a finished retraining.")
    parser.add_argument(
        "--onnx",
        type=str | None,
        metavar="FILE",
        help="Write ONNX (.onnx), checked against torch in onnxruntime; needs pip install 'archgrad[onnx]'. Class "
        "names and normalisation go into a .json of the same name, and into the file.",
    )
    parser.add_argument(
        "--torch",
        type=str | None,
        metavar="FILE",
        help="Write a program of torch.export (.pt2), with the same .json. torch.export.load unpickles, so read only "
        "those of people you trust.",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1e-4,
        help="Largest difference from the network's own outputs that passes, as a share of the largest one.",
    )
    parser.add_argument(
        "--batch-size",
        type=int | None,
        help="Write a file for batches of this many samples alone, as some devices need it. By default of any size.",
    )
    parser.add_argument(
        "--opset",
        type=int | None,
        help="Version of ONNX's operators, at least 18. By default the newest that the converter is sure of.",
    )
    group = parser.add_argument_group(
        "inputs of the network", "A run tells them itself; runs of older versions do so where they are one tensor."
    )
    group.add_argument(
        "--input-shape",
        action="append",
        metavar="[NAME=]SIZES[:TYPE]",
        help="Shape of a sample, without the batch, such as 3x32x32 or 128:int64. Given several times it is that of a "
        "dict of tensors, such as tokens=128:int64 and mask=128:bool, or without names that of a tuple.",
    )
    group.add_argument(
        "--data",
        type=str | None,
        help="Take the first samples of this data instead, named as for the retraining, to trace and to compare with.",
    )
    add_model_options(parser)
    return parser


def run(arguments: Sequence[str]) -> int:
    """Export, and say what was written and how close it comes."""
    arguments, dotted = split_dotted(arguments, ("data",))
    options = make_parser().parse_args(list(arguments))
    if options.onnx is None and options.torch is None:
        raise OptionError("Nothing to write was named. Give --onnx FILE.onnx, --torch FILE.pt2, or both.")
    folder = Path(options.run)
    inputs = _inputs(read_run_config(folder), options, {option.path[1]: option.value for option in dotted})
    shape, dtype = (inputs.shape, inputs.dtype) if inputs else (None, None)
    description = describe_run(folder, input_shape=shape, input_dtype=dtype)
    space = space_of_run(folder, options.space, description)
    network = load_retrained(folder, weights=options.weights, space=space)
    described = {each.name: getattr(description, each.name) for each in fields(description) if each.name != "outputs"}
    described["batch_size"] = options.batch_size
    if inputs and inputs.given is not None:
        described |= {"input_shape": None, "input_dtype": None, "example_inputs": inputs.given}
    what = "logits" if description.shows in ("classes", "labels") else "outputs"
    if options.onnx is not None:
        file = export_onnx(network, options.onnx, tolerance=options.tolerance, opset=options.opset, **described)
        say(f"{file.path}: ONNX, {what} within {file.max_difference:.2g} of torch's; see {file.description_path}")
    if options.torch is not None:
        file = export_program(network, options.torch, tolerance=options.tolerance, **described)
        say(
            f"{file.path}: exported program, {what} within {file.max_difference:.2g} of the network's; "
            f"see {file.description_path}"
        )
    if options.onnx is not None and description.is_image:
        say(f"Next:\n  archgrad predict {options.onnx} IMAGE...")
    return 0


def _inputs(config: Mapping[str, Any], options: Any, of_data: dict[str, Any]) -> Examples | None:
    """Return what was typed of the inputs of a run's network, if anything was."""
    if options.data is None:
        if of_data:
            raise OptionError(
                f"--data.{next(iter(of_data))} goes with --data FILE.py:NAME. Give it, or leave this out."
            )
        if not options.input_shape:
            return None
        shape, dtype = nested_inputs(_tensors(options.input_shape))
        return Examples(shape=shape, dtype=dtype)
    if options.input_shape:
        raise OptionError("--data tells the shapes itself, so it does not go with --input-shape. Leave one out.")
    name = settled_name(options.data)
    same = name == config.get("data")
    stored = stored_options("data", config) if same else {}
    data = open_data(
        {
            "data": name,
            **{option: config.get(option) if same else None for option in OF_LOADING},
            "train_samples": None,
            "data_options": {**stored, **of_data},
        }
    )
    return Examples(first_inputs(data, samples=3))


def _tensors(typed: Sequence[str]) -> list[dict[str, Any]]:
    """Return place, shape and type of each tensor, as typed."""
    found = []
    for number, text in enumerate(typed):
        match = _TENSOR.fullmatch(text)
        if match is None:
            raise OptionError(f"--input-shape takes sizes such as 3x32x32 or tokens=128:int64, but got {shown(text)}.")
        named = [int(part) if part.isdecimal() else part for part in (match["name"] or "").split(".") if part]
        place = named or ([number] if len(typed) > 1 else [])
        sizes = [int(size) for size in match["sizes"].split("x") if size]
        found.append({"place": place, "shape": sizes, "dtype": match["type"] or "float32"})
    return found
