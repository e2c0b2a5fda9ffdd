"""Retraining as one call: a derived network, data and options in, a named result and a run folder out."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from archgrad.architecture import Architecture
from archgrad.batches import check_smallest_part
from archgrad.data import Augmentation, Data, InfiniteLoader, as_data, first_batch
from archgrad.data.samples import pair_of
from archgrad.data.seeds import kept_randomness
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
from archgrad.engine import RunOptions, opened
from archgrad.errors import OptionError
from archgrad.fast import accelerated
from archgrad.input_checks import refusals_explained
from archgrad.machine import check_main_guard
from archgrad.options import takes
from archgrad.report.results import Viewed
from archgrad.retrain.evaluation import Evaluation, evaluate
from archgrad.retrain.learner import Learner
from archgrad.retrain.outputs import write_outputs
from archgrad.retrain.recipe import Recipe, RetrainOptions
from archgrad.retrain.retrain_run import RetrainRun
from archgrad.runs import Halted, Interrupted, pick_device, seeded
from archgrad.tasks import Task

__all__ = ["RetrainResult", "retrain"]


@dataclass(frozen=True, kw_only=True, repr=False)
class RetrainResult(Viewed):
    """What a retraining came to.

    Attributes:
        test_accuracy: Of the last epoch, 0 to 1; None without a test set, or where accuracy is not measured.
        test_loss: Of the last epoch; None without a test set.
        test_metrics: All metrics of the task, of the last epoch, by name; empty without a test set.
        best_test_accuracy: Of the best epoch, where accuracy says which that is. Chosen on the test set, so it
            flatters: the figure to report is `test_accuracy`.
        best_value: Of the metric that says which epoch is best, whatever it is; flatters as well.
        best_epoch: 0-based, as in metrics.csv; its weights are in `weights/best.safetensors`.
        history: One row an epoch, as in metrics.csv.
        skipped_steps: Steps left out because they were not finite.
        network: The network that was given, with its last weights, in evaluation mode.
        run_dir: The run folder.
        architecture: Where the network comes from, as it was given.
        task: What the network has learnt, fitted to the data.
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
    test_metrics: Mapping[str, float | None] = field(default_factory=dict)
    best_value: float | None = None
    task: Task | None = None


@takes(RetrainOptions)
def retrain(options: RetrainOptions) -> RetrainResult:
    """Train a derived network from scratch on the whole training set; the test set is only reported on.

    The network is trained in place. It returns what the task takes, such as logits (B, classes); one with an auxiliary
    head returns (logits, auxiliary logits) in training mode. Global random states are the caller's again afterwards.

    Where torchrun or SLURM has started several processes, they train together: each sees its part of every batch,
    gradients are averaged, each evaluates its part of the test set, and process 0 writes; its first weights and its
    running statistics of BatchNorm are taken. All call this with the same arguments. A run that torchrun starts again
    (`--max-restarts`) goes on from its checkpoint.

    Returns:
        Metrics, history and the network.

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
    check_main_guard()
    network, architecture, device = options.network, options.architecture, own_device(options.device)
    with ExitStack() as stack:
        stack.enter_context(process_group())
        with raise_on_all_ranks(), local_rank_zero_first():
            data = as_data(options.data).whole()
        chosen = options.task_for(data)
        side = _cutout_side(options.cutout, data)
        config = {
            **(options.config or {}),
            "data": data.name,
            **options.plain(),
            **options.kept(RunOptions),
            "device": str(device),
        }
        stack.enter_context(seeded(options.seed))
        # Everything that can be wrong with the arguments shows before a folder is written to.
        path, here = stack.enter_context(accelerated(network, options.fast)), pick_device(device)
        path.fit(here)
        channels_last = path.accepts_channels_last()
        learner = Learner(network, options, task=chosen.task, device=here, channels_last=channels_last, path=path)
        training_transform = data.training_transform(cutout=side, dtype=learner.dtype, channels_last=channels_last)
        test_transform = data.evaluation_transform(dtype=learner.dtype, channels_last=channels_last)
        few = partial(first_batch, samples=2, transform=test_transform, device=learner.device)
        learner.try_out(few(data.train)[0], data.train_targets)
        if data.test is not None:
            of = "the test set, though one of the training set"
            with kept_randomness(), refusals_explained(network, inputs := few(data.test)[0], of=of):
                learner.predict(inputs)
        broadcast_tensors([*network.parameters(), *network.buffers()])
        stack.enter_context(synchronised_norms(network, enabled=options.sync_batchnorm))
        stream = stack.enter_context(
            InfiniteLoader(
                data.train,
                batch_size=options.batch_size,
                seed=options.seed,
                sampling_weights=options.sampling_weights(data),
                transform=training_transform,
                device=learner.device,
                rank=rank(),
                world_size=world_size(),
                workers=options.workers,
                weighted=True,
            )
        )
        if options.sync_batchnorm and stream.smallest_part < options.accumulation:
            raise OptionError(
                f"With sync_batchnorm all processes must cut their batches into equally many parts, but got "
                f"accumulation={options.accumulation} and a batch with {stream.smallest_part} samples on a process. "
                f"Choose accumulation={stream.smallest_part} or less."
            )
        if not (options.sync_batchnorm and world_size() > 1):
            check_smallest_part(network, max(stream.smallest_part // options.accumulation, 1), of="for training")
        run = RetrainRun(
            learner,
            stream,
            lambda: evaluate(
                learner, data, transform=test_transform, batch_size=options.batch_size, workers=options.workers
            ),
        )
        engine = stack.enter_context(
            opened(run, options, config=config, data=data, architecture=architecture, said=chosen.line)
        )
        if options.drop_path not in (0.0, Recipe.drop_path) and not learner.has_drop_path:  # the default asks for none
            run.progress.message(f"The network has no paths to drop, so drop_path={options.drop_path} does nothing.")

        def result(evaluation: Evaluation | None) -> RetrainResult:
            return RetrainResult(
                test_accuracy=evaluation.metrics.get("accuracy") if evaluation else None,
                test_loss=evaluation.loss if evaluation else None,
                test_metrics=dict(evaluation.metrics) if evaluation else {},
                best_test_accuracy=run.best_value if chosen.task.best == "accuracy" else None,
                best_value=run.best_value,
                best_epoch=run.best_epoch,
                history=run.history,
                skipped_steps=learner.skipped_steps,
                network=network.eval(),
                run_dir=None if options.run_dir is None else Path(options.run_dir),
                architecture=architecture,
                task=chosen.task,
            )

        try:
            evaluation = engine.run()
        except (Halted, Interrupted) as ended:
            ended.result = result(None)
            raise
        found = result(evaluation)
        if run.folder is not None:
            facts = {
                **{f"test_{name}": found.test_metrics.get(name) for name in chosen.task.metrics},
                "test_loss": found.test_loss,
                f"best_test_{chosen.task.best}": found.best_value,
                "best_epoch": found.best_epoch,
                "epochs": run.epoch,
                "seconds": run.clock.total,
                "skipped_steps": found.skipped_steps,
            }
            write_outputs(run.folder, learner, data, evaluation, facts, transform=test_transform)
    return found


def _cutout_side(cutout: int | None, data: Data) -> int:
    if cutout is None:
        with kept_randomness():
            inputs, _ = pair_of(data.train, 0)
        # A spectrogram or a window of a recording has the shape of an image, too, but no place to leave out.
        pictures = data.channels and (data.augmentation != Augmentation() or str(inputs.dtype).endswith("uint8"))
        return data.image_size // 2 if pictures else 0
    if data.channels and cutout >= data.image_size:
        raise OptionError(
            f"cutout must be smaller than the images, or nothing is left of them, but got cutout={cutout} and images "
            f"of {data.image_size} pixels. Give cutout={data.image_size // 2}, or 0."
        )
    return cutout
