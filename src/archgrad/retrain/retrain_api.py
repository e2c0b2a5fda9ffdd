"""Retraining as one call: a derived network, data and options in, a named result and a run folder out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from archgrad.architecture import Architecture
from archgrad.batches import check_smallest_part
from archgrad.data import Data, InfiniteLoader, as_data, evaluation_batches
from archgrad.distributed import (
    broadcast_tensors,
    local_rank_zero_first,
    own_device,
    process_group,
    raise_on_all_ranks,
    rank,
    synchronised_norms,
    world_size,
)
from archgrad.engine import OnEpoch, Resume, RunOptions, opened
from archgrad.errors import DataError, OptionError
from archgrad.fast import accelerated, accepts_channels_last
from archgrad.report.results import Viewed
from archgrad.retrain.evaluation import Evaluation, evaluate
from archgrad.retrain.learner import Learner
from archgrad.retrain.outputs import write_outputs
from archgrad.retrain.recipe import OnNonfinite, Optimizer, Precision, Recipe
from archgrad.retrain.retrain_task import RetrainTask
from archgrad.runs import Halted, Interrupted, pick_device, seeded

__all__ = ["RetrainResult", "retrain"]


@dataclass(frozen=True, kw_only=True, repr=False)
class RetrainResult(Viewed):
    """What a retraining came to.

    Attributes:
        test_accuracy: Of the last epoch, 0 to 1; None without a test set.
        test_loss: Of the last epoch; None without a test set.
        best_test_accuracy: Of the best epoch. Chosen on the test set, so it flatters: the figure to report is
            `test_accuracy`.
        best_epoch: 0-based, as in metrics.csv; its weights are in `weights/best.safetensors`.
        history: One row an epoch, as in metrics.csv.
        skipped_steps: Steps left out because they were not finite.
        network: The network that was given, with its last weights, in evaluation mode.
        run_dir: The run folder.
        architecture: Where the network comes from, as it was given.
    """

    test_accuracy: float | None
    test_loss: float | None
    best_test_accuracy: float | None
    best_epoch: int | None
    history: list[dict[str, Any]]
    skipped_steps: int
    network: nn.Module
    run_dir: Path | None
    architecture: Architecture | None = None


def retrain(
    network: nn.Module,
    data: Data | Dataset | tuple[Any, Any] | str,
    *,
    architecture: Architecture | None = None,
    epochs: int = 600,
    batch_size: int = 96,
    learning_rate: float = 0.025,
    learning_rate_min: float = 0.0,
    momentum: float = 0.9,
    weight_decay: float = 3e-4,
    optimizer: Optimizer = "sgd",
    grad_clip: float = 5.0,
    cutout: int | None = None,
    auxiliary_weight: float = 0.4,
    drop_path: float = 0.2,
    label_smoothing: float = 0.0,
    precision: Precision = "32",
    accumulation: int = 1,
    seed: int = 0,
    on_nonfinite: OnNonfinite = "stop",
    sync_batchnorm: bool = False,
    device: str | torch.device = "auto",
    workers: int = 0,
    fast: bool = True,
    run_dir: str | os.PathLike[str] | None = None,
    resume: Resume = False,
    overwrite: bool = False,
    checkpoint_minutes: float = 10.0,
    checkpoint_steps: int | None = None,
    log_frequency: int | None = 50,
    quiet: bool = False,
    wandb: str | None = None,
    mlflow: str | None = None,
    on_epoch: OnEpoch | Sequence[OnEpoch] | None = None,
    max_minutes: float | None = None,
    config: Mapping[str, Any] | None = None,
) -> RetrainResult:
    """Train a derived network from scratch on the whole training set; the test set is only reported on.

    The network is trained in place. It returns logits (B, classes); one with an auxiliary head returns
    (logits, auxiliary logits) in training mode. Global random states are the caller's again afterwards.

    Where torchrun or SLURM has started several processes, they train together: each sees its part of every batch,
    gradients are averaged, each evaluates its part of the test set, and process 0 writes; its first weights and its
    running statistics of BatchNorm are taken. All call this with the same arguments. A run that torchrun starts again
    (`--max-restarts`) goes on from its checkpoint.

    Args:
        network: A plain module, such as `derive` returns.
        data: `Data`, a data set, a pair (inputs, targets), or a name such as "digits"; targets are classes.
        architecture: Where the network comes from; copied into the run folder.
        epochs: Passes over the training data, at least 1.
        batch_size: Samples of a step, on each process; at least 1.
        learning_rate: Of the first epoch; falls along half a cosine, epoch by epoch.
        learning_rate_min: What it falls to, after the last epoch.
        momentum: Of SGD; AdamW has its own.
        weight_decay: Added to the gradient by SGD, decoupled in AdamW.
        optimizer: "sgd" or "adamw".
        grad_clip: Largest norm of the gradient over all weights; 0 is off.
        cutout: Side in pixels of the square that is blanked in each training image, after normalisation; 0 is off; None
            is half the image, 16 pixels of CIFAR's 32.
        auxiliary_weight: Weight of the auxiliary head's loss, if the network has such a head.
        drop_path: Probability that a path is dropped; epoch e has drop_path * e / epochs.
        label_smoothing: Share of each target spread over all classes, in training only.
        precision: "32", "64", or "bf16": autocast to bfloat16 with weights in 32 bits.
        accumulation: Parts that a batch is cut into, one after the other through the network, to save memory; the same
            result as one part up to BatchNorm.
        seed: Of order, augmentation and drop path; the network's first weights are the caller's.
        on_nonfinite: What a loss or gradient that is not finite does: "stop" the run, or "skip" the step.
        sync_batchnorm: With several processes, let BatchNorm see the batch of all of them in training, at two messages
            a norm and step; R processes then compute what one would with a batch of R times the size, dropout aside.
        device: "auto" (CUDA if there is any), "cpu", "cuda:1", ...
        workers: Processes that read data which is not in memory; 0 reads in this process.
        fast: Compute cells, depthwise and pointwise convolutions the fast way, which rounds differently.
        run_dir: The run folder; None keeps nothing on disk.
        resume: Go on with the run in `run_dir`, from its last checkpoint. "auto" begins one where there is none.
        overwrite: Remove an earlier run in `run_dir` first.
        checkpoint_minutes: Time from one checkpoint to the next, besides the one after each epoch.
        checkpoint_steps: Steps from one checkpoint to the next; None goes by time alone.
        log_frequency: Steps from one line to the next where output is no terminal; None writes a line per epoch.
        quiet: Show no progress.
        wandb: Project of Weights & Biases to log to as well.
        mlflow: Experiment of MLflow to log to as well.
        on_epoch: Function of an `archgrad.engine.EpochState`, or a list of such, called on process 0 at the end of each
            epoch, and again if the epoch is done again. One that returns True ends the run there, for good.
        max_minutes: Save and end the run after this time, above 0; it can be resumed. None sets no limit.
        config: Options of the caller (space, channels, ...) that go into config.yaml beside these.

    Returns:
        Accuracies, history and the network.

    Raises:
        OptionError: An option is outside its range, or does not fit the network.
        DataError: The data cannot be used.
        RunError: The run folder cannot be used, or training cannot go on: loss not finite, out of memory, another
            process of the run gone.
        Interrupted: SIGTERM, SIGINT or SIGHUP came, or `max_minutes` are over; the state was saved.
        Halted: Ctrl-C or a notebook's stop button came, without a run folder or in IPython; the step was finished, and
            `result` has what the run came to so far.

    Source: Liu et al. 2019, section 3.3 and appendix A.
    """
    recipe = Recipe(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        learning_rate_min=learning_rate_min,
        momentum=momentum,
        weight_decay=weight_decay,
        optimizer=optimizer,
        grad_clip=grad_clip,
        cutout=cutout,
        auxiliary_weight=auxiliary_weight,
        drop_path=drop_path,
        label_smoothing=label_smoothing,
        precision=precision,
        accumulation=accumulation,
        seed=seed,
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
    device = own_device(device)
    with ExitStack() as stack:
        stack.enter_context(process_group())
        with raise_on_all_ranks(), local_rank_zero_first():
            data = as_data(data)
        if not data.classes:
            raise DataError(
                f"Retraining trains classifiers by cross-entropy, but the targets of {data.name!r} are no class "
                f"numbers (whole numbers of shape (N,), from 0). Train the network of archgrad.derive in a loop of "
                f"your own, with a loss such as F.mse_loss."
            )
        side = _cutout_side(recipe.cutout, data)
        options = {
            **(config or {}),
            "data": data.name,
            **asdict(recipe),
            "device": str(device),
            "workers": workers,
            "fast": fast,
            "checkpoint_minutes": checkpoint_minutes,
            "checkpoint_steps": checkpoint_steps,
            "log_frequency": log_frequency,
            "wandb": wandb,
            "mlflow": mlflow,
        }
        stack.enter_context(seeded(seed))
        # Everything that can be wrong with the arguments shows before a folder is written to.
        stack.enter_context(accelerated(network) if fast else nullcontext())
        channels_last = fast and accepts_channels_last(network)
        learner = Learner(
            network, recipe, classes=len(data.classes), device=pick_device(device), channels_last=channels_last
        )
        training_transform = data.training_transform(cutout=side, dtype=learner.dtype, channels_last=channels_last)
        test_transform = data.evaluation_transform(dtype=learner.dtype, channels_last=channels_last)
        samples = evaluation_batches(
            data.train, batch_size=2, indices=torch.arange(2), transform=test_transform, device=learner.device
        )
        learner.try_out(next(samples)[0])
        broadcast_tensors([*network.parameters(), *network.buffers()])
        stack.enter_context(synchronised_norms(network, enabled=sync_batchnorm))
        stream = stack.enter_context(
            InfiniteLoader(
                data.train,
                batch_size=batch_size,
                seed=seed,
                transform=training_transform,
                device=learner.device,
                rank=rank(),
                world_size=world_size(),
                workers=workers,
            )
        )
        if sync_batchnorm and stream.smallest_part < accumulation:
            raise OptionError(
                f"With sync_batchnorm all processes must cut their batches into equally many parts, but got "
                f"accumulation={accumulation} and a batch with {stream.smallest_part} samples on a process. "
                f"Choose accumulation={stream.smallest_part} or less."
            )
        if not (sync_batchnorm and world_size() > 1):
            check_smallest_part(network, max(stream.smallest_part // accumulation, 1), of="for training")
        task = RetrainTask(
            learner,
            stream,
            lambda: evaluate(learner, data, transform=test_transform, batch_size=batch_size, workers=workers),
        )
        engine = stack.enter_context(opened(task, run, config=options, data=data, architecture=architecture))
        if recipe.drop_path not in (0.0, Recipe.drop_path) and not learner.has_drop_path:  # the default asks for none
            task.progress.message(f"The network has no paths to drop, so drop_path={recipe.drop_path} does nothing.")

        def result(evaluation: Evaluation | None) -> RetrainResult:
            return RetrainResult(
                test_accuracy=evaluation.accuracy if evaluation else None,
                test_loss=evaluation.loss if evaluation else None,
                best_test_accuracy=task.best_accuracy,
                best_epoch=task.best_epoch,
                history=task.history,
                skipped_steps=learner.skipped_steps,
                network=network.eval(),
                run_dir=None if run_dir is None else Path(run_dir),
                architecture=architecture,
            )

        try:
            evaluation = engine.run()
        except (Halted, Interrupted) as ended:
            ended.result = result(None)
            raise
        found = result(evaluation)
        if task.folder is not None:
            facts = {
                "test_accuracy": found.test_accuracy,
                "test_loss": found.test_loss,
                "best_test_accuracy": found.best_test_accuracy,
                "best_epoch": found.best_epoch,
                "epochs": task.epoch,
                "seconds": task.clock.total,
                "skipped_steps": found.skipped_steps,
            }
            write_outputs(task.folder, learner, data, evaluation, facts)
    return found


def _cutout_side(cutout: int | None, data: Data) -> int:
    if cutout is None:
        return data.image_size // 2
    if data.channels and cutout >= data.image_size:
        raise OptionError(
            f"cutout must be smaller than the images, or nothing is left of them, but got cutout={cutout} and images "
            f"of {data.image_size} pixels. Give cutout={data.image_size // 2}, or 0."
        )
    return cutout
