"""Random search: train a few architectures drawn at random for a short time, and take the best."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Subset

from archgrad.architecture import Architecture
from archgrad.data import Data, as_data, stratified_halves
from archgrad.data.samples import as_samples
from archgrad.derive import derive
from archgrad.discretize import random_architecture
from archgrad.errors import OptionError
from archgrad.named_space import space_of
from archgrad.report.read import Table, read_table
from archgrad.retrain import retrain
from archgrad.runs import RunFolder, check_seed, seeded
from archgrad.sizes import check_whole

__all__ = ["RandomSearchResult", "random_search"]

_STEP = 1_000_003
"""Between the seeds of two searches, so that they share no candidate."""


@dataclass(frozen=True, kw_only=True)
class RandomSearchResult:
    """What a random search came to.

    Attributes:
        architecture: The candidate with the highest validation accuracy.
        history: One row a candidate: accuracy on the validation half, and the best so far.
        run_dir: Where the run lies.
    """

    architecture: Architecture
    history: Table
    run_dir: Path


def random_search(
    space: nn.Module | str,
    data: Data | Any,
    *,
    run_dir: str | os.PathLike[str],
    candidates: int | None = None,
    minutes: float | None = None,
    epochs: int = 5,
    batch_size: int = 64,
    learning_rate: float = 0.025,
    seed: int = 0,
    weights_fraction: float = 0.5,
    device: str | torch.device = "auto",
    workers: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    config: Mapping[str, Any] | None = None,
) -> RandomSearchResult:
    """Train architectures drawn at random, each for the same short time, and take the best on validation data.

    The baseline of every search (Li and Talwalkar 2019): it has the same data, split in the same way, and networks of
    the same size. Each candidate is an ordinary retraining, in a folder of its own.

    Args:
        space: A module with open choices, or the name of one in `archgrad.spaces`.
        data: As for `archgrad.search`, with classes.
        run_dir: Where candidates, metrics and the best architecture so far are written.
        candidates: How many are trained, at least 1.
        minutes: Begin new candidates until this time is spent, above 0; the last one is finished. Exactly one of
            `candidates` and `minutes` is given.
        epochs: Of each candidate's training, at least 1.
        batch_size: Samples of a step, at least 1.
        learning_rate: Of the first epoch; falls along half a cosine.
        seed: Of the split, the draws and the trainings; from 0 to 2**32 - 1.
        weights_fraction: Share of the training data that candidates learn from; they are compared on the rest.
        device: "auto" (CUDA where there is one), or a torch device.
        workers: Processes that read data which is not in memory.
        resume: Go on with the run in `run_dir`.
        overwrite: Start anew where `run_dir` holds an earlier run, which is removed.
        quiet: Show no progress.
        config: Further plain options of the caller, written to config.yaml.

    Raises:
        OptionError: An option is outside its range.
        RunError: The run folder is in use, taken, or does not fit.
        Interrupted: SIGTERM, SIGINT or SIGHUP came; the state was saved.
    """
    check_seed(seed)
    if (candidates is None) == (minutes is None):
        raise OptionError("A random search ends after a number of candidates or a time. Give candidates or minutes.")
    if candidates is not None:
        check_whole("candidates", candidates, least=1)
    if minutes is not None and not 0 < minutes < math.inf:
        raise OptionError(f"minutes must be a number above 0, but got minutes={minutes}.")
    training = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate, "workers": workers}
    everything = {
        **(config or {}), "candidates": candidates, "minutes": minutes, **training, "seed": seed,
        "weights_fraction": weights_fraction, "device": str(device),
    }  # fmt: skip
    data = as_data(data)
    halves = _halves(data, weights_fraction, seed)
    path = Path(run_dir)
    with ExitStack() as stack:
        stack.enter_context(seeded(seed))
        space = space_of(space, data)
        folder = stack.enter_context(_opened(path, everything, resume=resume, overwrite=overwrite))
        best, spent = _so_far(path)
        done = len(spent)
        folder.rewind(epochs=done)
        while done < candidates if candidates is not None else sum(spent) < 60 * (minutes or 0.0):
            drawn = random_architecture(space, seed=_STEP * seed + done)
            place = path / "candidates" / str(done)
            trained = retrain(
                derive(space, drawn),
                halves,
                architecture=drawn,
                run_dir=place,
                resume="auto",
                seed=seed,
                device=device,
                cutout=0,
                drop_path=0.0,
                auxiliary_weight=0.0,
                quiet=quiet,
                **training,  # type: ignore[arg-type]
            )
            accuracy = trained.test_accuracy
            if accuracy is None:
                raise OptionError("A random search compares accuracies, but this data has no classes.")
            if best is None or accuracy > best[0]:
                best = accuracy, drawn
            spent.append(sum(read_table(place / "timings.csv").columns["seconds"]))
            folder.save_architecture(best[1], epoch=done)
            folder.timings.append({"epoch": done, "seconds": spent[-1]})
            # Last, as a candidate counts once it stands here.
            folder.metrics.append({"epoch": done, "valid_accuracy": accuracy, "best_valid_accuracy": best[0]})
            done += 1
    assert best is not None  # there is at least one candidate
    return RandomSearchResult(architecture=best[1], history=read_table(path / "metrics.csv"), run_dir=path)


def _halves(data: Data, fraction: float, seed: int) -> Data:
    """The two parts that a search has, the second one in the place of the test set."""
    first, second = stratified_halves(data.train_targets, fraction=fraction, seed=seed)
    train, valid = (as_samples(Subset(data.train, part.tolist())) for part in (first, second))
    return replace(data, train=train, test=valid)


def _opened(path: Path, config: Mapping[str, Any], *, resume: bool, overwrite: bool) -> RunFolder:
    if resume:
        return RunFolder.resume(path, command="random-search", config=config, may_differ=("device", "workers"))
    return RunFolder.create(path, command="random-search", config=config, overwrite=overwrite)


def _so_far(path: Path) -> tuple[tuple[float, Architecture] | None, list[float]]:
    """The best candidate with its accuracy, and the seconds of each candidate that is done."""
    metrics = read_table(path / "metrics.csv") if (path / "metrics.csv").is_file() else Table(columns={})
    done = len(metrics.epochs)
    if not done:
        return None, []
    best = (
        metrics.columns["best_valid_accuracy"][-1],
        Architecture.load(path / "checkpoints" / f"epoch_{done - 1}.json"),
    )
    return best, list(read_table(path / "timings.csv").columns["seconds"][:done])
