"""The trained network that a command works on."""

from __future__ import annotations

from pathlib import Path

from torch import nn
from torch.utils.data import Dataset

from archgrad.cli import spaces as space_options
from archgrad.cli.own_code import stored_options
from archgrad.cli.parser import Parser
from archgrad.data import Data
from archgrad.errors import ExportError
from archgrad.export import ModelDescription, describe_run
from archgrad.export.load import Weights, read_run_config

__all__ = ["add_model_options", "space_of_run"]


def add_model_options(parser: Parser) -> None:
    """Add `--weights` and `--space`."""
    group = parser.add_argument_group("network of a run folder")
    group.add_argument(
        "--weights",
        type=Weights,
        default="last",
        help="Those after the last epoch, or of the epoch that was best on the test set, whose accuracy flatters.",
    )
    group.add_argument(
        "--space",
        type=str | None,
        help="A space of your own, FILE.py:NAME or package.module:NAME, as for the retraining. The file is run as "
        "Python: name only one that you trust. Runs of archgrad's own spaces need no such option, and run nothing.",
    )


def space_of_run(run: Path, text: str | None, description: ModelDescription | None = None) -> nn.Module | None:
    """Build the space that `--space` names, as the retraining in a run folder built it; None where none is named.

    Args:
        run: The folder.
        text: What was typed.
        description: Of its inputs and classes, where the folder does not tell them.

    Raises:
        OptionError: There is no such space.
        RunError: The folder holds no finished retraining.
        SpaceError: The space is not found, or cannot be built.
    """
    if text is None:
        return None
    config = read_run_config(run)
    try:
        description = describe_run(run)
    except ExportError:
        if description is None:
            raise
    channels, size = description.channels_and_size
    # A space is built from what is known about the data, not from the samples.
    data = Data(
        name=str(config.get("data")),
        train=Dataset(),
        classes=description.classes,
        channels=channels,
        image_size=size,
        in_features=description.features,
        sensors=description.sensors,
    )
    build, _ = space_options.space_builder(
        space_options.settled_name(text),
        data,
        stage="retrain",
        channels=config.get("channels"),
        cells=config.get("cells"),
        auxiliary=bool(config.get("auxiliary_weight")),
        options=stored_options("space", config),
    )
    return build()
