"""What is written and said when an epoch ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from archgrad.architecture import Architecture
from archgrad.discretize import discretize
from archgrad.runs import Loggers, Progress, RunFolder, peak_memory_mb
from archgrad.search.state import SearchState
from archgrad.search.watch import collapse_warning, mean_entropy, skip_connections
from archgrad.selection import Selection

__all__ = ["FIGURES", "architecture_after", "close_epoch", "figures_now"]

FIGURES = (
    "train_loss",
    "train_accuracy",
    "valid_loss",
    "valid_accuracy",
    "alphas_entropy",
    "skip_connections",
)
"""What the progress display shows."""


def figures_now(state: SearchState, selection: Selection) -> dict[str, Any]:
    """Return the figures of a running epoch for the display."""
    architecture = discretize(state.supernet, scores=selection.scores(state.supernet))
    return _known({**state.meter.means(), **_of_alphas(state, architecture)})


def _known(figures: dict[str, Any]) -> dict[str, Any]:
    """Leave out what a space, or a caller's metrics, do not have."""
    return {name: value for name, value in figures.items() if value is not None}


def _of_alphas(state: SearchState, architecture: Architecture) -> dict[str, Any]:
    probabilities, rows = state.supernet.probabilities(), state.supernet.rows
    return {
        "alphas_entropy": mean_entropy(probabilities, rows),
        "skip_connections": skip_connections(architecture, rows),
    }


def architecture_after(state: SearchState, selection: Selection, *, epoch: int, seed: int) -> Architecture:
    """Return what the alphas decide at the end of epoch `epoch` (0-based), with its provenance."""
    supernet = state.supernet
    space = getattr(supernet.network, "space_name", None)
    search = {"search": state.settings} if state.settings else {}
    provenance = {"epoch": epoch, "seed": seed, **search}
    return discretize(supernet, space=space, provenance=provenance, scores=selection.scores(supernet))


def close_epoch(
    state: SearchState,
    architecture: Architecture,
    *,
    learning_rate: float,
    images: int,
    temperature: float | None,
    regularizers: Sequence[str],
    probed: Mapping[str, float | None],
    device: torch.device,
    folder: RunFolder | None,
    loggers: Loggers,
    progress: Progress,
) -> None:
    """Write, keep and show the figures of an epoch and its architecture, and warn of a collapse.

    Args:
        state: At the end of the epoch.
        architecture: What its alphas lead to.
        learning_rate: Of the weights in this epoch.
        images: Training samples of the epoch, over all processes.
        temperature: Of the relaxation in this epoch.
        regularizers: Their columns.
        probed: What the stopping rule measured.
        device: Where the search computes.
        folder: Where everything goes; None writes nothing.
        loggers: Where rows go besides.
        progress: Shows what happens.
    """
    supernet, epoch = state.supernet, state.epoch
    means = state.meter.means_over_ranks(device)
    known = ("train_loss", "train_accuracy", "valid_loss", "valid_accuracy")
    row: dict[str, Any] = {
        "epoch": epoch,
        "learning_rate": learning_rate,
        **{name: means.get(name) for name in known},
        **_of_alphas(state, architecture),
        "alphas_gradient_norm": means.get("alphas_gradient_norm"),
        "weights_gradient_norm": means.get("weights_gradient_norm"),
        "temperature": temperature,
        "skipped_steps": state.skipped,
        **{name: means.get(name) for name in _further(means, regularizers) if name not in known},
        **probed,
    }
    state.clock.tick()
    timing = {
        "epoch": epoch,
        "seconds": state.clock.epoch,
        "images_per_second": images / state.clock.training,
        "peak_memory_mb": peak_memory_mb(device),
        "waiting_share": state.clock.waiting / state.clock.training,
        "checkpoint_seconds": state.clock.saving,
    }
    state.history.append(row)
    if folder is not None:
        folder.metrics.append(row)
        folder.timings.append(timing)
        folder.save_architecture(architecture, epoch)
        _log(loggers, architecture, {**row, **timing}, epoch)
    progress.end_epoch(_known({**row, **timing}))
    warning = collapse_warning(architecture, supernet.probabilities(), supernet.rows)
    if warning is not None:
        progress.message(warning)


def _further(means: Mapping[str, float], regularizers: Sequence[str]) -> list[str]:
    """Return the columns of a caller's metrics and of regularisers, the same where the alphas did not learn."""
    names = [name for name in means if "gradient_norm" not in name and not name.startswith("regularizer_")]
    if "valid_loss" not in means:
        names += [name.replace("train_", "valid_", 1) for name in names if name.startswith("train_")]
    return [*names, *regularizers]


def _log(loggers: Loggers, architecture: Architecture, row: dict[str, Any], epoch: int) -> None:
    # Drawing loads matplotlib, which takes about a second; a search without a run folder does not need it.
    from archgrad.report import architecture_image

    loggers.log_metrics(row, epoch)
    rows = architecture.provenance["probabilities"]
    for label, values in rows.items():
        named = values.items() if hasattr(values, "items") else enumerate(values)
        loggers.log_metrics({f"alphas/{label}/{name}": value for name, value in named}, epoch)
    loggers.log_image("architecture", architecture_image(architecture), epoch)
