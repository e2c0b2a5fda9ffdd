"""What is measured, written and drawn of a search's epoch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from archgrad.architecture import Architecture
from archgrad.batches import count, plain_targets
from archgrad.bilevel import StepReport
from archgrad.bilevel.passes import Batch
from archgrad.epoch_end import EpochEnd
from archgrad.errors import NonFiniteError, OptionError
from archgrad.rank_state import send_state
from archgrad.regularizers import Regularizer
from archgrad.runs import Loggers, RunFolder
from archgrad.search.collapse import collapse_warning, mean_entropy, skip_connections, skip_share
from archgrad.search.measured_halves import MeasuredHalves
from archgrad.search.meter import Meter
from archgrad.stopping import Stopping
from archgrad.supernet import Supernet
from archgrad.tasks import Task

__all__ = [
    "FIGURES",
    "LOSSES",
    "add_step",
    "figures_of",
    "further_columns",
    "known",
    "log_alphas",
    "of_alphas",
    "of_stopping",
    "publish",
    "stopped_at",
    "watched",
]

LOSSES = ("train_loss", "train_accuracy", "valid_loss", "valid_accuracy")
FIGURES = (*LOSSES, "alphas_entropy", "skip_connections")
"""What the progress display shows of any search."""

_NO_SIGNS = ("epoch", "learning_rate", "temperature", "skipped_steps", "alphas_gradient_norm", "weights_gradient_norm")
_NO_HEALTH = ("train_", "valid_", "regularizer_", "derived_", "multiplier_")


def add_step(
    meter: Meter, report: StepReport, train_batch: Batch, valid_batch: Batch, measured: MeasuredHalves
) -> None:
    """Add a step's losses, gradient norms and metrics to those of the epoch."""
    measured.add(report, train_batch, valid_batch)
    numbers = report.on_device()
    for half, batch, outputs, owner in (
        ("train", train_batch, report.train_outputs, "weights"),
        ("valid", valid_batch, report.valid_outputs, "alphas"),
    ):
        names = (f"{half}_loss", f"{owner}_gradient_norm")
        if not all(name in numbers for name in names):
            continue  # the alphas wait
        of_batch = measured.of_batches(outputs, plain_targets(batch[1]))
        values = {f"{half}_{name}": value for name, value in of_batch.items()}
        values |= {name: numbers[name] for name in names}
        meter.add(values, count(batch[1]))
    meter.add(report.figures, count(train_batch[1]))
    terms = {f"regularizer_{name}": value for name, value in report.regularizers.items()}
    meter.add(terms, count(valid_batch[1]))


def figures_of(task: Task) -> tuple[str, ...]:
    """Return the columns that the progress display shows first."""
    return tuple(dict.fromkeys((*LOSSES, *(f"{half}_{task.best}" for half in ("train", "valid")), *FIGURES)))


def known(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what a space, or a caller's metrics, do not have."""
    return {name: value for name, value in figures.items() if value is not None}


def of_alphas(supernet: Supernet, architecture: Architecture) -> dict[str, Any]:
    """Return the figures of alphas that lead to an architecture."""
    return {
        "alphas_entropy": mean_entropy(supernet.probabilities(), supernet.rows),
        "skip_connections": skip_connections(architecture, supernet.rows),
        "skip_share": skip_share(supernet.probabilities(), supernet.rows),
    }


def of_stopping(stopping: Stopping | None, end: EpochEnd, *, taken: Collection[str]) -> dict[str, float | None]:
    """Return what a stopping rule measures, the same on all processes, which must decide alike.

    Args:
        stopping: None measures nothing.
        end: Of the epoch.
        taken: The columns that the row of the epoch has already.

    Raises:
        OptionError: The rule calls a column as one that there is.
    """
    if stopping is None:
        return {}
    found = dict(stopping.probe(end))
    if clash := [name for name in found if name in taken]:
        raise OptionError(
            f"{type(stopping).__name__} measures {', '.join(clash)}, but metrics.csv has a column of that name "
            f"already. Give it another."
        )
    return send_state(found)


def stopped_at(error: NonFiniteError, epoch: int, step: int, folder: RunFolder | None) -> NonFiniteError:
    """Return the error that ends a search in a step, both counted from 0, with what to do."""
    kept = "" if folder is None else f" The last checkpoint is kept in '{folder.path}'."
    return NonFiniteError(
        f"The search stopped in epoch {epoch + 1} at step {step + 1}. {error} Or leave such steps out with "
        f"on_nonfinite='skip'.{kept}"
    )


def watched(history: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Any, Any]]:
    """Return by name what alphas and parts told of the search's health: (at the end of the first epoch, now)."""
    row = history[-1]
    return {
        name: (history[0].get(name), row[name])
        for name in row
        if row[name] is not None and name not in _NO_SIGNS and not name.startswith(_NO_HEALTH)
    }


def further_columns(means: Mapping[str, float | None], regularizers: Sequence[Regularizer]) -> list[str]:
    """Return the columns of a caller's metrics and of regularisers, the same where the alphas did not learn."""
    names = [name for name in means if "gradient_norm" not in name and not name.startswith("regularizer_")]
    if "valid_loss" not in means:
        names += [name.replace("train_", "valid_", 1) for name in names if name.startswith("train_")]
    terms = dict.fromkeys(f"regularizer_{type(part).__name__}" for part in regularizers)
    return [*(name for name in names if name not in LOSSES), *terms]


def publish(
    architecture: Architecture,
    epoch: int,
    supernet: Supernet,
    history: Sequence[Mapping[str, Any]],
    *,
    folder: RunFolder | None,
    loggers: Loggers,
) -> str | None:
    """Write, log and draw the architecture of an epoch, 0-based; return a warning if the search collapses."""
    if folder is not None:
        folder.save_architecture(architecture, epoch)
    if loggers:
        log_alphas(loggers, architecture, epoch)
    return collapse_warning(architecture, supernet.probabilities(), supernet.rows, watched(history))


def log_alphas(loggers: Loggers, architecture: Architecture, epoch: int) -> None:
    """Send the probabilities of an epoch's candidates, its edge weights, and a picture of its architecture."""
    # Drawing loads matplotlib, which takes about a second; a search without a run folder does not need it.
    from archgrad.report import architecture_image

    provenance = architecture.provenance
    for label, values in [*provenance["probabilities"].items(), *provenance.get("edge_weights", {}).items()]:
        named = values.items() if hasattr(values, "items") else enumerate(values)
        loggers.log_metrics({f"alphas/{label}/{name}": value for name, value in named}, epoch)
    loggers.log_image("architecture", architecture_image(architecture), epoch)
