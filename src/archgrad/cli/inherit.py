"""What a retraining takes over from the search that its architecture comes from."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from archgrad.cli.parser import dashed
from archgrad.errors import OptionError, RunError
from archgrad.runs import read_config

__all__ = ["inherit", "space_again"]

_TAKEN_OVER = ("data", "image_size", "space")


def inherit(values: dict[str, Any], arguments: Sequence[str]) -> str | None:
    """Set data, size of the images and space to those of the search, where they were not given.

    Args:
        values: Of the command line, with --arch settled; changed.
        arguments: What was typed, which wins, as a --config does.

    Returns:
        What was taken over, as a line for the terminal; None if nothing.

    Raises:
        OptionError: The search's space is somebody's own, which is not run before it is named.
    """
    run = _run_of(str(values["arch"]))
    if run is None or values["resume"] or values["config"]:
        return None
    try:
        stored = read_config(run / "config.yaml")
    except RunError:
        return None  # the architecture itself is whole
    if stored.get("command") != "search":
        return None
    typed = {argument.partition("=")[0] for argument in arguments}
    free = [name for name in _TAKEN_OVER if dashed(f"--{name}") not in typed and stored.get(name) is not None]
    if dashed("--data") in typed and "image_size" in free:
        free.remove("image_size")  # of other images
    taken = {name: stored[name] for name in free if isinstance(stored[name], (str, int))}
    space = taken.get("space")
    if isinstance(space, str) and ":" in space:
        raise OptionError(
            f"The architecture was searched in a space of somebody's own, {space!r}, which is run as Python. Nothing "
            f"that a file names is run unless you name it too. Give --space '{space}'."
        )
    values.update(taken)
    said = " ".join(f"{dashed(f'--{name}')} {shlex.quote(str(value))}" for name, value in taken.items())
    return f"As the search:  {said}" if taken else None


def space_again(space: str | None) -> str:
    """Return the option that a command needs beside --resume: a space of one's own must be named again."""
    return f" --space {shlex.quote(space)}" if space and ":" in space else ""


def _run_of(arch: str) -> Path | None:
    """The run folder that an architecture lies in."""
    path = Path(arch)
    folder = path.parent.parent if path.parent.name == "checkpoints" else path
    return folder if (folder / "config.yaml").is_file() else None
