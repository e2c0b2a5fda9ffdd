"""Random search: train a few architectures drawn at random for a short time, and take the best."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from archgrad.architecture import Architecture
from archgrad.checks import check_real
from archgrad.data import Data, as_data
from archgrad.data.samples import as_samples
from archgrad.derive import derive
from archgrad.discretize import random_architecture
from archgrad.errors import OptionError
from archgrad.named_space import space_of
from archgrad.options import names_of, takes
from archgrad.report.read import Table, read_table
from archgrad.retrain import retrain
from archgrad.runs import RunFolder, check_seed, seeded
from archgrad.sizes import check_whole
from archgrad.tasks import TaskOptions

__all__ = ["RandomSearchOptions", "RandomSearchResult", "random_search"]

_STEP = 1_000_003
"""Between the seeds of two searches, so that they share no candidate."""


@dataclass(frozen=True, kw_only=True)
class RandomSearchResult:
    """What a random search came to.

    Attributes:
        architecture: The candidate that is best on the validation half.
        history: One row a candidate: what the task is measured by first (of classes the accuracy) on the validation
            half, and the best so far.
        run_dir: Where the run lies.
    """

    architecture: Architecture
    history: Table
    run_dir: Path


@dataclass(frozen=True)
class RandomSearchOptions(TaskOptions):
    """What `archgrad.random_search` takes.

    Raises:
        OptionError: A value is outside its range.
    """

    space: nn.Module | str | Callable[..., nn.Module]
    """A module with open choices, the name of one in `archgrad.spaces`, or a function or class that builds one."""
    data: Data | Any
    """As for `archgrad.search`."""
    _: KW_ONLY
    run_dir: str | os.PathLike[str]
    """The run folder, where candidates, metrics and the best architecture so far are written."""
    candidates: int | None = None
    """How many are trained, at least 1; give this or `minutes`."""
    minutes: float | None = None
    """Begin new candidates until this time is spent, above 0; the last one is finished."""
    epochs: int = 5
    """Of each candidate's training, at least 1."""
    batch_size: int = 64
    """Samples of a step, at least 1."""
    learning_rate: float = 0.025
    """Of the weights in the first epoch; falls along half a cosine; above 0."""
    seed: int = 0
    """Of the split, the draws and the trainings; from 0 to 2**32 - 1."""
    weights_fraction: float = 0.5
    """Share of the training data that candidates learn from; they are compared on the rest. Between 0 and 1."""
    device: str | torch.device = "auto"
    """"auto" (CUDA where there is one), or a torch device, such as "cpu" or "cuda:1"."""
    workers: int = 0
    """Processes that read data which is not in memory; 0 reads in this process."""
    resume: bool = False
    """Go on with the run in `run_dir`."""
    overwrite: bool = False
    """Start anew where `run_dir` holds an earlier run, which is removed."""
    quiet: bool = False
    """Show no progress."""
    config: Mapping[str, Any] | None = None
    """Further plain options of the caller, written to config.yaml."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_seed(self.seed)
        if (self.candidates is None) == (self.minutes is None):
            raise OptionError(
                "A random search ends after a number of candidates or after a time. Give candidates or minutes."
            )
        if self.candidates is not None:
            check_whole("candidates", self.candidates, least=1)
        if self.minutes is not None:
            check_real("minutes", self.minutes, above=0)
        check_real("weights_fraction", self.weights_fraction, above=0, below=1)

    def training(self) -> dict[str, Any]:
        """Return what the training of each candidate is told."""
        return {name: getattr(self, name) for name in ("epochs", "batch_size", "learning_rate", "workers")}

    def everything(self) -> dict[str, Any]:
        """Return what config.yaml holds."""
        own = {name: getattr(self, name) for name in ("candidates", "minutes", "seed", "weights_fraction")}
        return {**(self.config or {}), **own, **self.training(), **self.plain_task(), "device": str(self.device)}


@takes(RandomSearchOptions)
def random_search(options: RandomSearchOptions) -> RandomSearchResult:
    """Train architectures drawn at random, each for the same short time, and take the best on validation data.

    The baseline of every search (Li and Talwalkar 2019): it has the same data, split in the same way, and networks of
    the same size. Each candidate is an ordinary retraining, in a folder of its own.

    Returns:
        The best architecture, and what led to it.

    Raises:
        OptionError: An option is outside its range.
        RunError: The run folder is in use, taken, or does not fit.
        Interrupted: SIGTERM, SIGINT or SIGHUP came; the state was saved.
    """
    data = as_data(options.data)
    weights = options.sampling_weights(data)
    halves, learnt_from = _halves(data, options.weights_fraction, options.seed)
    learnt = {name: getattr(options, name) for name in names_of(TaskOptions)}
    if weights is not None and not isinstance(options.sampling, str):
        learnt["sampling"] = weights[learnt_from].tolist()
    path, seed = Path(options.run_dir), options.seed
    with ExitStack() as stack:
        stack.enter_context(seeded(seed))
        given = space_of(options.space, data, outputs=len(options.task_for(data).task.labels))
        space = given if isinstance(given, nn.Module) else given()
        folder = stack.enter_context(_opened(path, options))
        best, spent = _so_far(path)
        done = len(spent)
        folder.rewind(epochs=done)
        while (
            done < options.candidates if options.candidates is not None else sum(spent) < 60 * (options.minutes or 0.0)
        ):
            drawn = random_architecture(space, seed=_STEP * seed + done)
            place = path / "candidates" / str(done)
            trained = retrain(
                derive(space, drawn),
                halves,
                architecture=drawn,
                run_dir=place,
                resume="auto",
                seed=seed,
                device=options.device,
                cutout=0,
                drop_path=0.0,
                auxiliary_weight=0.0,
                quiet=options.quiet,
                **options.training(),
                **learnt,
            )
            assert trained.task is not None
            metric = trained.task.best
            value = trained.test_loss if metric == "loss" else trained.test_metrics.get(str(metric))
            if value is None:
                raise OptionError(f"A random search compares {metric}, but candidate {done} has none. Give more data.")
            if best is None or trained.task.better(value, best[0]):
                best = value, drawn
            spent.append(sum(read_table(place / "timings.csv").columns["seconds"]))
            folder.save_architecture(best[1], epoch=done)
            folder.timings.append({"epoch": done, "seconds": spent[-1]})
            # Last, as a candidate counts once it stands here.
            folder.metrics.append({"epoch": done, f"valid_{metric}": value, f"best_valid_{metric}": best[0]})
            done += 1
    assert best is not None  # there is at least one candidate
    return RandomSearchResult(architecture=best[1], history=read_table(path / "metrics.csv"), run_dir=path)


def _halves(data: Data, fraction: float, seed: int) -> tuple[Data, Tensor]:
    """The two parts that a search has, the second one in the place of the test set; and the samples of the first."""
    parts = data.halves(fraction=fraction, seed=seed)
    train, valid = (as_samples(Subset(part.samples, part.indices.tolist())) for part in parts)
    return replace(data, train=train, test=valid, valid=None, groups=None, times=None), parts[0].indices


def _opened(path: Path, options: RandomSearchOptions) -> RunFolder:
    config = options.everything()
    if options.resume:
        return RunFolder.resume(path, command="random-search", config=config, may_differ=("device", "workers"))
    return RunFolder.create(path, command="random-search", config=config, overwrite=options.overwrite)


def _so_far(path: Path) -> tuple[tuple[float, Architecture] | None, list[float]]:
    """The best candidate with its accuracy, and the seconds of each candidate that is done."""
    metrics = read_table(path / "metrics.csv") if (path / "metrics.csv").is_file() else Table(columns={})
    done = len(metrics.epochs)
    if not done:
        return None, []
    best = (
        next(column for name, column in metrics.columns.items() if name.startswith("best_valid_"))[-1],
        Architecture.load(path / "checkpoints" / f"epoch_{done - 1}.json"),
    )
    return best, list(read_table(path / "timings.csv").columns["seconds"][:done])
