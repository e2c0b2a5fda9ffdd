"""The search as a function: options in, architecture out."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import Optimizer

from archgrad.architecture import Architecture
from archgrad.bilevel import BilevelStep
from archgrad.bilevel import cuda_graphs as recorded_on_cuda
from archgrad.bilevel.graph_cache import check_recordable
from archgrad.bilevel.passes import Loss
from archgrad.bilevel.step import check_parts
from archgrad.data import Data, as_data
from archgrad.distributed import (
    broadcast_tensors,
    local_rank_zero_first,
    own_device,
    process_group,
    raise_on_all_ranks,
    rank,
    synchronised_norms,
)
from archgrad.engine import OnEpoch, Resume, RunOptions, opened
from archgrad.errors import OptionError
from archgrad.margins import margins_of, undecided_note
from archgrad.methods import Method
from archgrad.methods.tree import tree_of
from archgrad.named_space import space_of
from archgrad.relaxation import Relaxation
from archgrad.report.results import Viewed
from archgrad.runs import Halted, Interrupted, pick_device, seeded
from archgrad.search.constant import constant_warning
from archgrad.search.loaders import open_streams
from archgrad.search.meter import Metrics, accuracy
from archgrad.search.optimizers import OptimizerFactory, optimizer_for_weights
from archgrad.search.search_options import OnNonfinite, Precision, Schedule, SearchOptions
from archgrad.search.search_task import SearchTask
from archgrad.search.settings import settings_of
from archgrad.search.short_forms import choose_method
from archgrad.stopping import Stop
from archgrad.supernet import Supernet

__all__ = ["SearchResult", "search"]


@dataclass(frozen=True, repr=False)
class SearchResult(Viewed):
    """What a search gives.

    Attributes:
        architecture: Derived after the last epoch, or the one that the stopping rule returns.
        supernet: With the weights and alphas of the last epoch, on its device.
        history: One row of metrics an epoch, as in metrics.csv.
        run_dir: Where the run lies, if it was given a folder.
        stop: Why the search ended before its last epoch, if it did.
    """

    architecture: Architecture
    supernet: Supernet
    history: list[dict[str, Any]]
    run_dir: Path | None
    stop: Stop | None = None

    @property
    def margins(self) -> dict[str, float]:
        """By row of alphas, the probability that the taken candidate has before the next, smallest first; -1 to 1."""
        return margins_of(self.architecture)

    def _remark(self) -> str:
        return "; the alphas hardly moved" if undecided_note(self.architecture) else ""


def search(
    space: nn.Module | str,
    data: Data | Any,
    *,
    method: Method | str | None = None,
    step: BilevelStep | str | None = None,
    relaxation: Relaxation | str | None = None,
    epochs: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
    run_dir: str | Path | None = None,
    resume: Resume = False,
    overwrite: bool = False,
    learning_rate: float = 0.025,
    learning_rate_min: float = 0.001,
    schedule: Schedule = "cosine",
    momentum: float = 0.9,
    weight_decay: float = 3e-4,
    grad_clip: float = 5.0,
    alphas_learning_rate: float | None = None,
    alphas_betas: tuple[float, float] | None = None,
    alphas_weight_decay: float | None = None,
    weights_fraction: float = 0.5,
    accumulation: int = 1,
    weights_first: bool | None = None,
    cutout: int = 0,
    precision: Precision = "32",
    on_nonfinite: OnNonfinite = "stop",
    sync_batchnorm: bool = False,
    loss: Loss = F.cross_entropy,
    metrics: Metrics = accuracy,
    weights_optimizer: Optimizer | OptimizerFactory | None = None,
    device: str | torch.device = "auto",
    workers: int = 0,
    fast: bool = True,
    activation_checkpointing: bool = False,
    cuda_graphs: bool = False,
    checkpoint_minutes: float = 10.0,
    checkpoint_steps: int | None = None,
    log_frequency: int | None = None,
    quiet: bool = False,
    wandb: str | None = None,
    mlflow: str | None = None,
    on_epoch: OnEpoch | Sequence[OnEpoch] | None = None,
    max_minutes: float | None = None,
    config: Mapping[str, Any] | None = None,
) -> SearchResult:
    """Search the architecture of a space by gradient descent (Liu et al. 2019, algorithm 1).

    The training data is split in two; each step updates the alphas on a batch of one half and the weights on a batch of
    the other. On a CPU the same seed gives the same result, also when the run was interrupted and resumed. Global
    random states are the caller's again afterwards.

    Where torchrun or SLURM has started several processes, they search together: each sees its part of every batch,
    gradients are averaged, and process 0 writes. All call this with the same arguments. A run that torchrun starts
    again (`--max-restarts`) goes on from its checkpoint.

    Args:
        space: A module with open choices, which stays as it is; the name of one in `archgrad.spaces`, which is
            built to fit the data; or a `Supernet` of one, which is searched in place
            with its own relaxation, alphas and fast path.
        data: A `Data`, a map-style data set, a pair (inputs, targets) of tensors, or a name for `archgrad.data.load`.
        method: How alphas are relaxed, moved and read: a `Method`, or the name of one in `archgrad.methods`. By default
            "darts"; `step`, `relaxation`, `weights_first` and `alphas_...` are short for parts of it.
        step: How the alphas' gradient is computed, or a name as in `archgrad steps`; `FirstOrder()` if not given.
        relaxation: How alphas become mixing weights, or a name as in `archgrad relaxations`; `Softmax()` if not given.
        epochs: Passes over the weights' half, at least 1. By default those of the method's stages, else 50.
        batch_size: Samples of each of a step's two batches, on each process; at least 1.
        seed: Of the split, the order, augmentation, alphas and the relaxation's draws; from 0 to 2**32 - 1.
        run_dir: Where architectures, metrics and checkpoints are written; nowhere if not given.
        resume: Go on with the run in `run_dir`; its options must be the same. "auto" begins one where there is none.
        overwrite: Start anew where `run_dir` holds an earlier run, which is removed.
        learning_rate: Of the weights' SGD in the first epoch; above 0.
        learning_rate_min: What the cosine schedule falls to after the last epoch; at least 0.
        schedule: Course of the weights' learning rate over the epochs: "cosine" or "constant".
        momentum: Of the weights' SGD; from 0 to below 1.
        weight_decay: Of the weights' SGD; at least 0.
        grad_clip: Largest L2 norm of the weights' gradient; 0 is off. Alphas are never clipped.
        alphas_learning_rate: Of the alphas' Adam; above 0. By default 0.0003.
        alphas_betas: Of the alphas' Adam; each from 0 to below 1. By default 0.5 and 0.999.
        alphas_weight_decay: Of the alphas' Adam, added to the gradient; at least 0. By default 0.001.
        weights_fraction: Share of the training data that the weights learn from, between 0 and 1.
        accumulation: Parts that each batch is cut into, one after the other, to save memory; at least 1. The result is
            that of the whole batch, up to BatchNorm, which sees the parts; `loss` must be one of torch's, a mean over
            samples, or say what it averages over (see `archgrad.losses.Loss`).
        weights_first: Update the weights before the alphas in each step, as GDAS does. By default as the method says,
            else not.
        cutout: Side in pixels of a square that is blanked in each training image; 0 is off.
        precision: "32", "64", or "bf16": autocast to bfloat16, weights and alphas in 32 bits.
        on_nonfinite: What a loss or gradient that is not finite does: "stop" the run, or "skip" the step.
        sync_batchnorm: With several processes, let BatchNorm see the batch of all of them in training, at two messages
            a norm and step; R processes then compute what one would with a batch of R times the size.
        loss: Function of (outputs, targets) (see `archgrad.losses.Loss`).
        metrics: Function of (outputs, targets) that returns name -> mean over the batch.
        weights_optimizer: Instead of the SGD: a function of the list of weights, or an optimizer over parameters of
            `space`, which then works on the supernet's copies of them.
        device: "auto" (CUDA where there is one), or a torch device.
        workers: Processes that read data which is not in memory; 0 reads in this process.
        fast: Compute the same numbers the fast way; False runs every operation as it is written.
        activation_checkpointing: Compute activations again in the backward pass instead of keeping them.
        cuda_graphs: On a GPU, record each kind of pass as a CUDA graph after a warm-up, which is announced, and do it
            again without Python; see `archgrad.bilevel.cuda_graphs`. What cannot be recorded is said and runs as usual.
        checkpoint_minutes: Time between checkpoints within an epoch, above 0; each epoch ends with one.
        checkpoint_steps: Steps between checkpoints within an epoch, at least 1; None goes by time alone.
        log_frequency: Steps between plain progress lines; None for one an epoch.
        quiet: Show no progress.
        wandb: Project of Weights & Biases to log to as well.
        mlflow: Experiment of MLflow to log to as well.
        on_epoch: Function of an `archgrad.engine.EpochState`, or a list of such, called on process 0 at the end of each
            epoch, and again if the epoch is done again. One that returns True ends the run there, for good.
        max_minutes: Save and end the run after this time, above 0; it can be resumed. None sets no limit.
        config: Further plain options of the caller, written to config.yaml.

    Returns:
        The architecture and what led to it.

    Raises:
        OptionError: An option is outside its range, or does not go with the others.
        DataError: The data is too small or broken.
        SpaceError: The space has no choices, or they conflict.
        RunError: The run folder is in use, taken, or does not fit; or another process of the run is gone.
        NonFiniteError: A loss or gradient is NaN or infinite and `on_nonfinite` is "stop".
        Interrupted: SIGTERM, SIGINT or SIGHUP came, or `max_minutes` are over; the state was saved.
        Halted: Ctrl-C or a notebook's stop button came, without a run folder or in IPython; the step was finished, and
            `result` has what the run came to so far.
    """
    chosen = choose_method(
        method,
        step=step,
        relaxation=relaxation,
        weights_first=weights_first,
        alphas_learning_rate=alphas_learning_rate,
        alphas_betas=alphas_betas,
        alphas_weight_decay=alphas_weight_decay,
    )
    if isinstance(space, Supernet):
        own = None if relaxation is None else chosen.relaxation
        chosen = _method_in_place(chosen, space, given=method is not None, relaxation=own)
    options = SearchOptions(
        epochs=_epochs(chosen, epochs),
        batch_size=batch_size,
        seed=seed,
        learning_rate=learning_rate,
        learning_rate_min=learning_rate_min,
        schedule=schedule,
        momentum=momentum,
        weight_decay=weight_decay,
        grad_clip=grad_clip,
        weights_fraction=weights_fraction,
        accumulation=accumulation,
        cutout=cutout,
        precision=precision,
        on_nonfinite=on_nonfinite,
        sync_batchnorm=sync_batchnorm,
    )
    run = RunOptions(
        run_dir=run_dir,
        resume=resume,
        overwrite=overwrite,
        checkpoint_minutes=checkpoint_minutes,
        checkpoint_steps=checkpoint_steps,
        log_frequency=log_frequency,
        quiet=quiet,
        wandb=wandb,
        mlflow=mlflow,
        on_epoch=on_epoch,
        max_minutes=max_minutes,
    )
    device = pick_device(own_device(device))

    with ExitStack() as stack:
        stack.enter_context(process_group())
        with raise_on_all_ranks(), local_rank_zero_first():
            data = as_data(data)
        stack.enter_context(seeded(seed))
        space = space_of(space, data)  # the first weights of a space by name follow from the seed, too
        supernet = (
            space
            if isinstance(space, Supernet)
            else Supernet(
                space,
                chosen.relaxation,
                seed=seed,
                fast=fast,
                activation_checkpointing=activation_checkpointing,
                edge_weights=chosen.edge_weights,
                always_on=chosen.always_on,
            )
        )
        supernet.to(device, torch.float64 if precision == "64" else None).train()
        optimizer = optimizer_for_weights(
            supernet,
            supernet.network if supernet is space else space,
            weights_optimizer,
            learning_rate=learning_rate,
            momentum=momentum,
            weight_decay=weight_decay,
        )
        chosen.step.check(optimizer)
        check_parts(supernet, chosen.step, chosen.regularizers, chosen.perturbation)
        alphas_optimizer = chosen.alphas_optimizer.first(list(supernet.alphas.values()))
        broadcast_tensors([*supernet.parameters(), *supernet.buffers()])
        stack.enter_context(synchronised_norms(supernet.network, enabled=sync_batchnorm))
        if cuda_graphs:
            check_recordable(supernet, device)
        train, valid = open_streams(
            data, supernet, options, device=device, workers=workers, channels_last=supernet.channels_last
        )
        stack.callback(train.close)
        stack.callback(valid.close)
        everything = {
            **(config or {}),  # first, so that what the caller says of space and data stands at the top
            **asdict(options),
            "checkpoint_minutes": checkpoint_minutes,
            "checkpoint_steps": checkpoint_steps,
            "method": tree_of(chosen),
            "device": str(device),
            "workers": workers,
            "fast": fast,
            "activation_checkpointing": activation_checkpointing,
            "cuda_graphs": cuda_graphs,
            **(config or {}),
        }
        weights = sum(weight.numel() for weight in supernet.weights.values())
        task = SearchTask(
            supernet,
            optimizer,
            alphas_optimizer,
            train,
            valid,
            options=options,
            method=chosen,
            loss=loss,
            metrics=metrics,
            samples=len(data.train_targets),
            settings=settings_of(options, everything, data.name) | {"weights": weights},
        )
        engine = stack.enter_context(opened(task, run, config=everything))
        if cuda_graphs:
            stack.enter_context(recorded_on_cuda(supernet, say=task.progress.message))
        folder_path = None if run_dir is None else Path(run_dir)
        try:
            architecture, leads = engine.run(), rank() == 0
        except (Halted, Interrupted) as ended:
            ended.result = SearchResult(task.present_architecture(), supernet, task.history, folder_path)
            raise
    if leads and (constant := constant_warning(supernet, architecture, data)) is not None:
        warnings.warn(constant, stacklevel=2)
    return SearchResult(architecture, supernet, task.history, folder_path, task.stop)


_OF_THE_SUPERNET = ("relaxation", "edge_weights", "always_on")
"""The parts of a method that a supernet is built with."""


def _method_in_place(chosen: Method, supernet: Supernet, *, given: bool, relaxation: Relaxation | None) -> Method:
    """Return the method with the relaxation of a supernet that is searched in place."""
    if relaxation is not None:
        raise OptionError("relaxation does not go with a supernet, which has its own. Leave it out, or give the space.")
    for name in _OF_THE_SUPERNET if given else ():
        if getattr(chosen, name) != getattr(supernet, name):
            raise OptionError(
                f"The method has {name}={getattr(chosen, name)!r}, but the supernet {getattr(supernet, name)!r}. "
                f"Give the space."
            )
    return replace(chosen, **{name: getattr(supernet, name) for name in _OF_THE_SUPERNET})


def _epochs(method: Method, asked: int | None) -> int:
    """Return the number of epochs: what is asked for, else what the method's stages have, else the paper's."""
    if asked is None:
        return SearchOptions.epochs if method.epochs is None else method.epochs
    if method.epochs not in (None, asked):
        raise OptionError(
            f"The stages of the method have {method.epochs} epochs together, but got epochs={asked}. Leave epochs out, "
            f"or give stages of that length."
        )
    return asked
