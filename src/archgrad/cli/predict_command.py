"""`archgrad predict`: image files or samples in, predictions out as a table, CSV or JSON, and masks as images."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from archgrad.cli.commands import COMMANDS
from archgrad.cli.data import open_data, settled_name
from archgrad.cli.models import add_model_options, space_of_run
from archgrad.cli.parser import Parser
from archgrad.errors import OptionError
from archgrad.export import Prediction, model_description, predict, predict_samples, save_masks
from archgrad.terminal import printable, say
from archgrad.typed_names import is_own

__all__ = ["make_parser", "run"]


def make_parser() -> Parser:
    """Return the parser."""
    parser = Parser("predict", COMMANDS["predict"], positional="MODEL [IMAGE...] ")
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="An .onnx file of `archgrad export`, or the run folder of a retraining. Exported programs (.pt2) are not "
        "read, as that can run code in them.",
    )
    parser.add_argument(
        "images",
        nargs="*",
        metavar="IMAGE",
        help="Image files of any size; they are brought to the network's as those of its training were.",
    )
    parser.add_argument(
        "--data",
        type=str | None,
        help="Instead of image files: data as for the retraining, whose test samples are predicted, or all where there "
        "is no test set. Of a table all rows are; it needs no target.",
    )
    parser.add_argument("--top", type=int, default=5, help="How many classes to tell, at least 1.")
    parser.add_argument("--json", type=bool, default=False, help="Print JSON instead of a table.")
    parser.add_argument("--csv", type=bool, default=False, help="Print CSV, for spreadsheets, instead of a table.")
    parser.add_argument(
        "--masks",
        type=str | None,
        metavar="FOLDER",
        help="Of a segmentation, write the mask of each image there as a PNG: a colour a class, and in its pixels the "
        "class numbers.",
    )
    add_model_options(parser)
    return parser


def run(arguments: Sequence[str]) -> int:
    """Predict the images or samples, and print what came out."""
    options = make_parser().parse_args(list(arguments))
    if options.json and options.csv:
        raise OptionError("--json and --csv are two forms of the same. Give one of them.")
    if bool(options.images) == bool(options.data):
        raise OptionError("predict takes image files or --data, one of the two. Name what is to be predicted.")
    space = space_of_run(Path(options.model), options.space)
    known = {"top": options.top, "weights": options.weights, "space": space}
    if options.data:
        name = settled_name(options.data)
        data = open_data({"data": name, "train_samples": None}) if is_own(name) else name
        found = predict_samples(options.model, data, **known)
    else:
        found = predict(options.model, options.images, **known)
    names = model_description(options.model).classes
    masks = [None] * len(found) if options.masks is None else [str(p) for p in save_masks(found, options.masks)]
    rows = [_as_data(prediction, names, mask) for prediction, mask in zip(found, masks, strict=True)]
    if options.json:
        say(json.dumps(rows, indent=2))
    elif options.csv:
        say(_as_csv(rows), end="")
    else:
        say("\n".join(_as_text(row, names) for row in rows))
    return 0


def _as_data(prediction: Prediction, names: Sequence[str], mask: str | None) -> dict[str, Any]:
    row: dict[str, Any] = {"image": prediction.image}
    if prediction.values:
        whole = len(names) == len(prediction.values)
        row["values"] = dict(
            zip(names if whole else map(str, range(len(prediction.values))), prediction.values, strict=True)
        )
    if prediction.positions is not None:
        positions = prediction.positions
        numbers = positions.flatten().bincount(minlength=len(names)).tolist()
        row |= (
            {"positions": positions.tolist()}
            if positions.dim() == 1
            else {"pixels": dict(zip(names, numbers, strict=False))}
        )
        if mask is not None:
            row["mask"] = mask
    elif not prediction.values or prediction.classes or prediction.probabilities:
        pairs = zip(prediction.classes, prediction.probabilities, strict=True)
        row["classes"] = [{"class": name, "probability": share} for name, share in pairs]
    return row


def _as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Return one line a sample: its likeliest classes with their probabilities, or its values, labels or positions."""
    lines = [_csv_row(row) for row in rows]
    head = list(dict.fromkeys(name for line in lines for name in line))
    text = io.StringIO()
    writer = csv.DictWriter(text, head, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _csv_row(row: dict[str, Any]) -> dict[str, Any]:
    line = {"image": row["image"]}
    if "values" in row:
        line |= row["values"]
        if "classes" in row:
            line["labels"] = ";".join(each["class"] for each in row["classes"])
        return line
    for number, each in enumerate(row.get("classes", ()), start=1):
        line |= {f"class_{number}": each["class"], f"probability_{number}": each["probability"]}
    if "positions" in row:
        line["positions"] = " ".join(map(str, row["positions"]))
    for name, count in row.get("pixels", {}).items():
        line[f"pixels_{name}"] = count
    return line | ({"mask": row["mask"]} if "mask" in row else {})


def _as_text(row: dict[str, Any], names: Sequence[str]) -> str:
    shares = {each["class"]: f"{100 * each['probability']:6.2f} %" for each in row.get("classes", ())}
    if "values" in row and "classes" not in row:
        shares = {name: f"{value:.6g}" for name, value in row["values"].items()}
    if "positions" in row:
        shares = {"positions": " ".join(_visible(names[number]) for number in row["positions"])}
    if "pixels" in row:
        shares = {name: f"{count} pixels" for name, count in row["pixels"].items()}
    if "mask" in row:
        shares["mask"] = row["mask"]
    heads = [printable(name) for name in shares]
    width = max(map(len, heads), default=0)
    return "\n".join(
        [
            printable(row["image"]),
            *(f"  {name:<{width}}  {text}" for name, text in zip(heads, shares.values(), strict=True)),
        ]
    )


def _visible(name: str) -> str:
    """A class's name; a blank or the end of a line, which a language model may predict, in quotes."""
    return printable(name) if name.strip() else repr(name)
