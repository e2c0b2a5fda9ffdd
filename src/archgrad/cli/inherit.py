"""What a retraining takes over from the search that its architecture comes from."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from archgrad.architecture import Architecture
from archgrad.cli.data import loading_again
from archgrad.cli.own_code import own_again, settled_own, stored_options, typed_again
from archgrad.cli.parser import dashed
from archgrad.errors import OptionError, RunError
from archgrad.options import names_of
from archgrad.retrain.recipes import RECIPE_IMAGES
from archgrad.runs import read_config
from archgrad.tasks import TASKS, TaskOptions
from archgrad.tasks.base_task import HIGHER_IS_BETTER, LOWER_IS_BETTER
from archgrad.typed_names import OF_LOADING, OWN_KINDS, is_own

__all__ = ["inherit", "retraining_of"]


def inherit(values: dict[str, Any], arguments: Sequence[str]) -> str | None:
    """Set data, size of the images and space, with their options, to those of the search, where they were not given.

    Args:
        values: Of the command line, with --arch settled; changed.
        arguments: What was typed, which wins, as a --config does, and what a --recipe says of images.

    Returns:
        What was taken over, as a line for the terminal; None if nothing.

    Raises:
        OptionError: The search's data or space is somebody's own code, which is not run before it is named.
    """
    run = _run_of(str(values["arch"]))
    if run is None or values["resume"] or values["config"]:
        return None
    try:
        stored = read_config(run / "config.yaml")
    except RunError:
        return None  # the architecture itself is whole
    if stored.get("command") not in ("search", "random-search"):
        return None
    typed = {argument.partition("=")[0] for argument in arguments}
    typed |= {dashed(f"--{name}") for name in (RECIPE_IMAGES if values.get("recipe") else ())}
    free = [kind for kind in OWN_KINDS if f"--{kind}" not in typed and isinstance(stored.get(kind), str)]
    if own := [stored[kind] for kind in free if is_own(stored[kind])]:
        again = own_again({kind: stored[kind] if kind in free else None for kind in OWN_KINDS})
        raise OptionError(
            f"The architecture was searched with code of somebody's own, {' and '.join(map(repr, own))}, which is run "
            f"as Python. Nothing that a file names is run unless you name it too. Give{again}."
        )
    said = ""
    for kind in OWN_KINDS:
        if kind in free:
            values[kind] = stored[kind]
            said += f" --{kind} {shlex.quote(stored[kind])}"
        elif not is_own(values[kind]) or settled_own(values[kind]) != stored.get(kind):
            continue  # what was typed is another
        found, before = stored_options(kind, stored), values.get(f"{kind}_options", {})
        if found:
            values[f"{kind}_options"] = {**found, **before}
            said += typed_again(kind, {f"{kind}_options": {name: found[name] for name in found if name not in before}})
        if kind == "data":
            loading = {
                name: stored[name]
                for name in OF_LOADING
                if dashed(f"--{name}") not in typed and isinstance(stored.get(name), int | str)
            }
            values |= loading
            said += loading_again(loading)
    for name in names_of(TaskOptions):
        value = _typed(stored.get(name))
        known = isinstance(value, str) and value in {"task": TASKS, "sampling": ("balanced",)}.get(name, (value,))
        if known and values.get(name) is None and dashed(f"--{name}") not in typed:
            values[name] = value
            said += f" {dashed(f'--{name}')} {shlex.quote(str(value))}"
    return f"As the search: {said}" if said else None


def retraining_of(arch: Path, architecture: Architecture, values: Mapping[str, Any]) -> str:
    """Return the command that retrains what a search came to, with its space and data.

    Args:
        arch: A file or run folder.
        architecture: What it holds.
        values: Of the search's command line.
    """
    space = "" if architecture.space == values["space"] else f" --space {shlex.quote(values['space'])}"
    data = f" --data {shlex.quote(values['data'])}{typed_again('data', values)}"
    task = "".join(
        f" {dashed(f'--{name}')} {shlex.quote(values[name])}"
        for name in names_of(TaskOptions)
        if isinstance(values.get(name), str)
    )
    return (
        f"archgrad retrain --arch {shlex.quote(str(arch))}{space}{typed_again('space', values)}{data}"
        f"{loading_again(values)}{task}"
    )


def _typed(value: Any) -> Any:
    """As it would be typed: numbers or names with commas between them."""
    if not isinstance(value, list):
        return value
    own = {each for each in value if isinstance(each, str)} - HIGHER_IS_BETTER - LOWER_IS_BETTER
    if own:
        return None  # a caller's metrics do not come from their names
    return ",".join(map(str, value)) or None


def _run_of(arch: str) -> Path | None:
    """The run folder that an architecture lies in."""
    path = Path(arch)
    if path.parent.name == "checkpoints":
        folder = path.parent.parent
    else:
        folder = path.parent if path.name == "architecture.json" else path
    return folder if (folder / "config.yaml").is_file() else None
