"""`archgrad convert`: architectures and weights from one program's form into another's."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from archgrad.architecture import Architecture
from archgrad.cli.commands import COMMANDS
from archgrad.cli.named_architectures import FORMS, open_architecture
from archgrad.cli.parser import Parser
from archgrad.errors import ArchitectureError, OptionError
from archgrad.files import atomic_write, read_explained, write_text
from archgrad.json_text import shown, shown_text
from archgrad.nni_format import format_choices
from archgrad.nni_hub_format import format_hub
from archgrad.paths import from_home
from archgrad.terminal import say

__all__ = ["make_parser", "run"]

Form = Literal["archgrad", "authors", "pt.darts", "nni-2.4", "nni-2.10", "nni-3"]
_WEIGHTS = (".pt", ".pth", ".tar", ".safetensors")
_TEXT = (".txt", ".py")


def make_parser() -> Parser:
    """Return the parser."""
    parser = Parser("convert", COMMANDS["convert"], positional="IN OUT ")
    parser.add_argument(
        "source",
        metavar="IN",
        help=f"An architecture: {FORMS}. Or trained weights of the authors' code, of pt.darts or of NNI's hub: a state "
        f"dict in a file {', '.join(_WEIGHTS)}.",
    )
    parser.add_argument(
        "target",
        metavar="OUT",
        help="The file to write. Weights: .safetensors with archgrad's names, .pt with the authors'.",
    )
    parser.add_argument(
        "--to",
        type=Form | None,
        help="Form of an architecture; by default that of the authors for .txt and .py, else archgrad's JSON. In "
        "nni-2.4 dropped edges need an operation too, and get maxpool.",
    )
    parser.add_argument("--arch", type=str | None, help="The architecture of weights: as IN.")
    return parser


def run(arguments: Sequence[str]) -> int:
    """Convert, and say what was written."""
    options = make_parser().parse_args(list(arguments))
    target = from_home(options.target)
    if Path(options.source).suffix in _WEIGHTS:
        if options.arch is None or options.to is not None:
            raise OptionError(
                "Weights need the architecture that was trained, and no form. Give --arch, leave --to out."
            )
        _convert_weights(from_home(options.source), open_architecture(options.arch), target)
        return 0
    if options.arch is not None:
        raise OptionError("--arch goes with weights. Leave it out.")
    form = options.to or ("authors" if target.suffix in _TEXT else "archgrad")
    architecture = open_architecture(options.source)
    write_text(target, _WRITERS[form](architecture))
    say(f"{target}: the architecture in the form of {form}")
    return 0


def _as_json(data: Any) -> str:
    return json.dumps(data, indent=1) + "\n"


_WRITERS: dict[str, Callable[[Architecture], str]] = {
    "archgrad": Architecture.to_json,
    "authors": lambda architecture: architecture.to_genotype() + "\n",
    "pt.darts": lambda architecture: architecture.to_genotype(nested=True) + "\n",
    "nni-2.4": lambda architecture: _as_json(format_choices(architecture.choices)),
    "nni-2.10": lambda architecture: _as_json(format_hub(architecture.choices)),
    "nni-3": lambda architecture: _as_json(format_hub(architecture.choices, lists=True)),
}
assert set(_WRITERS) == set(get_args(Form))


def _convert_weights(source: Path, architecture: Architecture, target: Path) -> None:
    import torch  # here, so that architectures do not wait for it

    from archgrad.official import network_to_state_dict, read_network
    from archgrad.runs.tensors import load_tensors, save_tensors

    if target.suffix not in (".pt", ".safetensors"):
        raise OptionError(
            f"Weights are written to FILE.safetensors with archgrad's names or FILE.pt with the authors', but OUT is "
            f"{shown(str(target))}."
        )
    if source.suffix == ".safetensors":
        saved: Any = load_tensors(source)
    else:
        content = io.BytesIO(read_explained(source))
        try:
            saved = torch.load(content, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, KeyError, TypeError, OSError) as error:
            raise ArchitectureError(
                f"'{source}' cannot be read as tensors alone: {shown_text(str(error))[:200]}. Where a whole module was "
                f"saved, load it with its code and save module.state_dict()."
            ) from None
    network = read_network(saved, architecture)
    official = network_to_state_dict(network)  # refuses what only pt.darts' networks have
    if target.suffix == ".safetensors":
        save_tensors(target, network.state_dict())
    else:
        with atomic_write(target) as file:
            torch.save(official, file)
    names = "archgrad's" if target.suffix == ".safetensors" else "the authors'"
    say(f"{target}: {len(official)} tensors under {names} names")
