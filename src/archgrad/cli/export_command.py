"""`archgrad export`: the network of a retraining as a file that other programs run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from archgrad.cli.commands import COMMANDS
from archgrad.cli.models import add_model_options, space_of_run
from archgrad.cli.parser import Parser
from archgrad.errors import OptionError
from archgrad.terminal import say

__all__ = ["make_parser", "run"]


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
        help="Largest difference from the network's own logits that passes, as a share of the largest logit.",
    )
    add_model_options(parser)
    return parser


def run(arguments: Sequence[str]) -> int:
    """Export, and say what was written and how close it comes."""
    options = make_parser().parse_args(list(arguments))
    if options.onnx is None and options.torch is None:
        raise OptionError("Nothing to write was named. Give --onnx FILE.onnx, --torch FILE.pt2, or both.")
    from archgrad.export import describe_run, export_onnx, export_program, load_retrained

    folder = Path(options.run)
    network = load_retrained(folder, weights=options.weights, space=space_of_run(folder, options.space))
    described = asdict(describe_run(folder))
    if options.onnx is not None:
        file = export_onnx(network, options.onnx, tolerance=options.tolerance, **described)
        say(f"{file.path}: ONNX, logits within {file.max_difference:.2g} of torch's; see {file.description_path}")
    if options.torch is not None:
        file = export_program(network, options.torch, tolerance=options.tolerance, **described)
        say(
            f"{file.path}: exported program, logits within {file.max_difference:.2g} of the network's; "
            f"see {file.description_path}"
        )
    if options.onnx is not None:
        say(f"Next:\n  archgrad predict {options.onnx} IMAGE...")
    return 0
