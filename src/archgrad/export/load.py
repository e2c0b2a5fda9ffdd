"""A retrained network from the files of its run: configuration, architecture, weights."""

from __future__ import annotations

import inspect
import os
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from torch import nn

from archgrad import spaces
from archgrad.architecture import Architecture
from archgrad.copying import copied
from archgrad.derive import derive
from archgrad.errors import ArchitectureError, ExportError, OptionError, RunError
from archgrad.export.description import ModelDescription
from archgrad.export.inputs import DTYPES, nested_inputs
from archgrad.files import read_explained
from archgrad.json_text import MAX_TEXT_BYTES, parse_json, shown_text
from archgrad.runs import load_tensors, read_config, seeded
from archgrad.tasks import Classification

__all__ = ["Weights", "describe_run", "load_retrained"]

_PLAIN_TASK = Classification().described()
Weights = Literal["last", "best"]
"""Those after the last epoch, or those of the epoch that was best on the test set."""


def load_retrained(
    run_dir: str | os.PathLike[str], *, weights: Weights = "last", space: nn.Module | None = None
) -> nn.Module:
    """Return the network of a retraining, rebuilt from its run folder alone.

    Only data are read: nothing in the folder is run or unpickled. The network of a space of one's own is therefore
    rebuilt only from a `space` that is given.

    Args:
        run_dir: The run folder of a finished retraining.
        weights: "last", those after the last epoch; "best", those of the epoch that was best on the test set, whose
            accuracy flatters.
        space: The space, built as for the retraining (stage="retrain", the same sizes), where the run does not name one
            of archgrad's; for a run without architecture.json, the network itself. It is left as it is.

    Returns:
        The network in evaluation mode, float32, on the CPU.

    Raises:
        RunError: The folder holds no finished retraining, or its weights are not those of the network.
        ArchitectureError: Its architecture does not fit the space.
        OptionError: `weights` is neither.
    """
    run = Path(run_dir)
    if weights not in ("last", "best"):
        raise OptionError(f"weights must be 'last' or 'best', but got {weights!r}.")
    config = read_run_config(run)
    architecture = _architecture(run)
    with seeded(0):  # the first weights are replaced, and must not move the caller's random numbers
        if space is None:
            space = _build(run, config, architecture)
        network = copied(space) if architecture is None else derive(space, architecture)
    file = run / "weights" / f"{weights}.safetensors"
    if not file.is_file():
        other = "weights='last'" if weights == "best" else "weights='best'"
        reason = "it has no test set, or has not finished an epoch" if weights == "best" else "it is not finished"
        raise RunError(f"The run '{run}' has no {weights} weights: {reason}. Finish it first, or take {other}.")
    try:
        network.load_state_dict(load_tensors(file))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:600]
        raise RunError(
            f"The weights in '{file}' are not those of the network that {_origin(space, config)} gives: {reason} "
            f"Give the space that the run was started with, built with the same sizes."
        ) from error
    return network.eval()


def describe_run(
    run_dir: str | os.PathLike[str], *, input_shape: Any = None, input_dtype: Any = "float32"
) -> ModelDescription:
    """Return classes, inputs and normalisation of a retraining, from its summary.json.

    Args:
        run_dir: The run folder of a finished retraining.
        input_shape: Of other inputs than the summary tells, as in `ModelDescription`.
        input_dtype: Goes with `input_shape`.

    Raises:
        RunError: The folder holds no finished retraining.
        ExportError: The summary does not tell the inputs, or they are of types that are not exported.
        OptionError: `input_shape` or `input_dtype` is none.
    """
    run = Path(run_dir)
    summary = _summary(run, read_run_config(run))
    try:
        if input_shape is None:
            input_shape, input_dtype = nested_inputs(_inputs(run, summary))
        return ModelDescription.of_lists(
            classes=summary["classes"],
            input_shape=input_shape,
            input_dtype=input_dtype,
            mean=summary["mean"],
            std=summary["std"],
            fit=summary.get("fit", "crop"),
            bits=summary.get("bits", 8),
            table=summary.get("table"),
            read_size=summary.get("read_size"),
            task=None if (task := summary.get("task")) is None or task == _PLAIN_TASK else task,
        )
    except (KeyError, OptionError) as error:
        raise RunError(f"'{run / 'summary.json'}' does not describe a retraining ({error}). Retrain anew.") from error


def _inputs(run: Path, summary: Mapping[str, Any]) -> Any:
    """Return what the summary tells of the tensors of a sample."""
    shape = summary.get("image_shape") or summary.get("input_shape")
    one = {"place": [], "shape": shape, "dtype": summary.get("input_dtype", "float32")}
    inputs = summary.get("inputs") or ([one] if isinstance(shape, list) else [])
    if not inputs:
        raise ExportError(
            f"The summary.json of '{run}' does not tell the shape of a sample. Give the data that it was trained on "
            f"(--data), or the shape of each tensor (--input-shape; in Python input_shape=...)."
        )
    for part in inputs if isinstance(inputs, list) else []:
        if isinstance(part, Mapping) and part.get("dtype") not in DTYPES:
            dtype = shown_text(str(part.get("dtype")))
            raise ExportError(
                f"The network of '{run}' takes inputs of type {dtype}, and only those of {', '.join(DTYPES)} are "
                f"exported. Retrain it on data of one of these types."
            )
    return inputs


def read_run_config(run: Path) -> dict[str, Any]:
    """Return the options of a retraining.

    Raises:
        RunError: The folder is none of a retraining.
    """
    if not (run / "config.yaml").is_file():
        raise RunError(f"'{run}' holds no config.yaml, so it is no run folder. Name the folder of a retraining.")
    config = read_config(run / "config.yaml")
    command = config.get("command")
    if command != "retrain":
        train = (
            f"archgrad retrain --arch {shlex.quote(str(run))}"
            if _was_typed(config)
            else f"archgrad.retrain(archgrad.derive(space, {str(run)!r}), data, run_dir=...)"
        )
        raise RunError(
            f"'{run}' is the folder of a {shown_text(str(command))}, which leaves no trained network. Train its "
            f"result, and name the folder of that retraining: {train}"
        )
    return config


def _was_typed(config: Mapping[str, Any]) -> bool:
    """Whether the command line can go on with a run: one of Python's does not name its space."""
    return config.get("space") is not None


def _summary(run: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    file = run / "summary.json"
    if not file.is_file():
        go_on = (
            f"archgrad retrain --resume {shlex.quote(str(run))}"
            if _was_typed(config)
            else f"archgrad.retrain(..., run_dir={str(run)!r}, resume=True)"
        )
        raise RunError(f"The run '{run}' has no summary.json, so it is not finished. Go on with it: {go_on}")
    content = read_explained(file, most=MAX_TEXT_BYTES)
    try:
        summary = parse_json(content.decode("utf-8", errors="replace"), not_finite_as_none=True)
    except ArchitectureError as error:
        raise RunError(f"'{file}' is damaged: {error} Take an intact copy.") from error
    if not isinstance(summary, dict):
        raise RunError(f"'{file}' is damaged: it holds {type(summary).__name__}. Take an intact copy.")
    return summary


def _architecture(run: Path) -> Architecture | None:
    file = run / "architecture.json"
    return Architecture.load(file) if file.is_file() else None


def _origin(space: nn.Module, config: Mapping[str, Any]) -> str:
    return f"the space '{config['space']}'" if config.get("space") else f"the module {type(space).__name__}"


def _build(run: Path, config: Mapping[str, Any], architecture: Architecture | None) -> nn.Module:
    """Build one of archgrad's spaces with the sizes of the run."""
    if architecture is None:
        raise RunError(
            f"The run '{run}' has no architecture.json, so its network cannot be rebuilt from it. "
            f"Give space=..., the network as it was built."
        )
    name = config.get("space") or architecture.space
    builder = _builders().get(str(name))
    if builder is None:
        named = f"names the space '{name}', which is none of archgrad's" if name else "names no space"
        raise RunError(
            f"The run '{run}' {named}. Rebuilding its network runs that space's own Python code, which archgrad does "
            f"only when you say so. Give it, if you trust it: --space {name or 'FILE.py:NAME'} on the command line, "
            f"space=... in Python."
        )
    description = describe_run(run)
    in_channels, image_size = description.channels_and_size
    sizes = {"num_classes": len(description.classes), "in_channels": in_channels, "image_size": image_size}
    sizes |= {"in_features": description.features, "sensors": description.sensors}
    known = {
        **{name: size for name, size in sizes.items() if size},
        "stage": "retrain",
        # The head is in the weights exactly when it was trained.
        "auxiliary": bool(config.get("auxiliary_weight")),
        **_space_options(run, config),
        **{size: config[size] for size in ("channels", "cells") if config.get(size) is not None},
    }
    parameters = inspect.signature(builder).parameters
    for size in ("channels", "cells"):
        if size in parameters and size not in known:
            raise RunError(
                f"The run '{run}' does not say how many {size} its network has. Give space=..., the space '{name}' as "
                f"it was built."
            )
    try:
        return builder(**{name: value for name, value in known.items() if name in parameters})
    except OptionError as error:
        raise RunError(f"The network of '{run}' cannot be built as its config.yaml says: {error}") from error


def _space_options(run: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    options = config.get("space_options") or {}
    if not isinstance(options, Mapping):
        raise RunError(f"The space_options of '{run}' are no options. Take an intact copy of its config.yaml.")
    return dict(options)


def _builders() -> dict[str, Callable[..., nn.Module]]:
    return {name.replace("_", "-"): getattr(spaces, name) for name in spaces.NAMED}
