"""`archgrad predict`: image files in, classes out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from archgrad.cli.commands import COMMANDS
from archgrad.cli.models import add_model_options, space_of_run
from archgrad.cli.parser import Parser
from archgrad.export import Prediction, predict
from archgrad.terminal import printable, say

__all__ = ["make_parser", "run"]


def make_parser() -> Parser:
    """Return the parser."""
    parser = Parser("predict", COMMANDS["predict"], positional="MODEL IMAGE... ")
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="An .onnx file of `archgrad export`, or the run folder of a retraining. Exported programs (.pt2) are not "
        "read, as that can run code in them.",
    )
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="Image files of any size; they are cut to their central square and resized.",
    )
    parser.add_argument("--top", type=int, default=5, help="How many classes to tell, at least 1.")
    parser.add_argument("--json", type=bool, default=False, help="Print JSON instead of a table.")
    add_model_options(parser)
    return parser


def run(arguments: Sequence[str]) -> int:
    """Classify the images and print the likeliest classes of each."""
    options = make_parser().parse_args(list(arguments))
    found = predict(
        options.model,
        options.images,
        top=options.top,
        weights=options.weights,
        space=space_of_run(Path(options.model), options.space),
    )
    if options.json:
        say(json.dumps([_as_data(prediction) for prediction in found], indent=2))
    else:
        say("\n".join(map(_as_text, found)))
    return 0


def _as_data(prediction: Prediction) -> dict[str, Any]:
    pairs = zip(prediction.classes, prediction.probabilities, strict=True)
    return {"image": prediction.image, "classes": [{"class": name, "probability": share} for name, share in pairs]}


def _as_text(prediction: Prediction) -> str:
    names = [printable(name) for name in prediction.classes]
    width = max(map(len, names))
    pairs = zip(names, prediction.probabilities, strict=True)
    return "\n".join(
        [printable(prediction.image), *(f"  {name:<{width}}  {100 * share:6.2f} %" for name, share in pairs)]
    )
