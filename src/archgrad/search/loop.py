"""The search loop: alphas and weights in turn, one architecture an epoch."""

from __future__ import annotations

import time

import torch

from archgrad.architecture import Architecture
from archgrad.batches import prepare
from archgrad.bilevel import BilevelStep, StepReport, search_step
from archgrad.bilevel.passes import Batch, Loss
from archgrad.buffers import copied_buffers, set_buffers
from archgrad.data import BatchStream
from archgrad.distributed import (
    Wishes,
    announce,
    broadcast_tensors,
    check_same,
    forget_wishes,
    heard,
    largest_over_ranks,
    world_size,
)
from archgrad.errors import NonFiniteError
from archgrad.runs import (
    CheckpointSchedule,
    Interrupted,
    Loggers,
    Progress,
    RunFolder,
    StopRequest,
    memory_explained,
)
from archgrad.search.epoch import architecture_after, close_epoch, figures_now
from archgrad.search.meter import Meter, Metrics
from archgrad.search.optimizers import set_learning_rate
from archgrad.search.options import SearchOptions
from archgrad.search.state import SearchState

__all__ = ["Loop"]


class Loop:
    """Searches from wherever the state stands to the last epoch.

    Args:
        state: What is searched, and how far it is.
        train: Batches for the weights.
        valid: Batches for the alphas.
        options: The search's options.
        step: How the alphas' gradient is computed.
        loss: Function of (outputs, targets) (see `archgrad.losses.Loss`).
        metrics: Function of (outputs, targets) that returns name -> mean over the batch.
        pace: When checkpoints are written.
        folder: Where everything goes; None writes nothing.
        loggers: Where rows go besides.
        progress: Shows what happens.
        request: Says whether to stop; None never does.
    """

    def __init__(
        self,
        state: SearchState,
        train: BatchStream,
        valid: BatchStream,
        *,
        options: SearchOptions,
        step: BilevelStep,
        loss: Loss,
        metrics: Metrics,
        pace: CheckpointSchedule,
        folder: RunFolder | None,
        loggers: Loggers,
        progress: Progress,
        request: StopRequest | None,
    ) -> None:
        self._state, self._train, self._valid = state, train, valid
        self._options, self._step, self._loss, self._metrics = options, step, loss, metrics
        self._pace, self._folder, self._loggers = pace, folder, loggers
        self._progress, self._request = progress, request
        self._device = next(iter(state.supernet.alphas.values())).device
        self._steps_since_save, self._saved_at = 0, time.perf_counter()

    def run(self) -> Architecture:
        """Search to the end and return the architecture after the last epoch."""
        forget_wishes()
        state, epochs = self._state, self._options.epochs
        architecture = architecture_after(state, epoch=state.epoch - 1, seed=self._options.seed)
        done = state.epoch * self._train.batches_per_epoch + state.step
        batches = zip(self._train.batches(done), self._valid.batches(done), strict=False)
        while state.epoch < epochs:
            rate = self._start_epoch()
            while state.step < self._train.batches_per_epoch:
                waited = self._waited()
                train_batch, valid_batch = (self._cast(batch) for batch in next(batches))
                state.clock.waiting += self._waited() - waited
                self._take_step(train_batch, valid_batch)
                self._save_if_due()
            architecture = self._end_epoch(rate)
        return architecture

    def _cast(self, batch: Batch) -> Batch:
        """Bring inputs that are no images (those have their transform) to the weights' precision."""
        dtype = torch.float64 if self._options.precision == "64" else torch.float32
        return prepare(batch[0], dtype=dtype, channels_last=False), batch[1]

    def _waited(self) -> float:
        return self._train.waiting_seconds + self._valid.waiting_seconds

    def _start_epoch(self) -> float:
        """Set what changes with the epoch; return the learning rate."""
        state, options = self._state, self._options
        state.supernet.train()
        state.supernet.relaxation.begin_epoch(state.epoch, options.epochs)
        self._progress.start_epoch(state.epoch)
        state.clock.tick()
        if options.schedule == "constant":
            return float(state.weights_optimizer.param_groups[0]["lr"])
        return set_learning_rate(state.weights_optimizer, state.epoch, options.epochs, last=options.learning_rate_min)

    def _take_step(self, train_batch: Batch, valid_batch: Batch) -> None:
        state, options = self._state, self._options
        announce(self._wishes(steps=self._steps_since_save + 1))
        remedies = (
            f"a smaller batch_size (now {options.batch_size}); accumulation={2 * options.accumulation}, which keeps "
            f"the batch; activation_checkpointing=True; fewer channels or cells; precision='bf16'."
        )
        skips = options.on_nonfinite == "skip"
        buffers = copied_buffers(state.supernet.network) if skips else {}
        try:
            with (
                memory_explained(remedies),
                torch.autocast(self._device.type, torch.bfloat16, enabled=options.precision == "bf16"),
            ):
                report = search_step(
                    state.supernet,
                    train_batch,
                    valid_batch,
                    step=self._step,
                    weights_optimizer=state.weights_optimizer,
                    alphas_optimizer=state.alphas_optimizer,
                    loss=self._loss,
                    grad_clip=options.grad_clip,
                    weights_first=options.weights_first,
                    accumulation=options.accumulation,
                )
            self._measure(report, train_batch, valid_batch)
        except NonFiniteError as error:
            if not skips:
                kept = "" if self._folder is None else f" The last checkpoint is kept in '{self._folder.path}'."
                raise NonFiniteError(
                    f"The search stopped in epoch {state.epoch} at step {state.step}. {error} Or leave such steps out "
                    f"with on_nonfinite='skip'.{kept}"
                ) from error
            # One forward pass would leave BatchNorm's running statistics at nan for good.
            set_buffers(state.supernet.network, buffers, device=self._device)
            state.skipped += 1
        self._progress.step(state.step, images=len(train_batch[1]) * world_size(), read=lambda: figures_now(state))
        state.step += 1
        self._steps_since_save += 1

    def _measure(self, report: StepReport, train_batch: Batch, valid_batch: Batch) -> None:
        """Add a step's losses, gradient norms and metrics to the means of the epoch."""
        numbers = report.on_device()
        for half, batch, outputs, owner in (
            ("train", train_batch, report.train_outputs, "weights"),
            ("valid", valid_batch, report.valid_outputs, "alphas"),
        ):
            values = {f"{half}_{name}": value for name, value in self._metrics(outputs, batch[1]).items()}
            values |= {name: numbers[name] for name in (f"{half}_loss", f"{owner}_gradient_norm")}
            self._state.meter.add(values, len(batch[1]))

    def _end_epoch(self, rate: float) -> Architecture:
        state = self._state
        steps = self._train.batches_per_epoch
        self._agree()
        architecture = close_epoch(
            state,
            learning_rate=rate,
            images=sum(self._train.samples_in_batch(state.epoch * steps + i) for i in range(steps)),
            seed=self._options.seed,
            device=self._device,
            folder=self._folder,
            loggers=self._loggers,
            progress=self._progress,
        )
        state.epoch, state.step, state.meter = state.epoch + 1, 0, Meter()
        state.clock.start_epoch()
        self._save()
        if state.epoch < self._options.epochs:
            self._stop_if_asked()
        return architecture

    def _agree(self) -> None:
        """Take over process 0's buffers, and make sure that the processes hold the same weights and alphas."""
        supernet = self._state.supernet
        broadcast_tensors(supernet.network.buffers())
        check_same(
            {"alphas": supernet.alphas.values(), "weights": supernet.weights.values()},
            when=f"after epoch {self._state.epoch}",
        )

    def _wishes(self, *, steps: int) -> Wishes:
        """Return what this process wants so many steps after the last checkpoint."""
        return Wishes(
            stop=self._request is not None and self._request.requested,
            save=self._folder is not None
            and self._pace.is_due(steps=steps, seconds=time.perf_counter() - self._saved_at),
        )

    def _agreed(self) -> Wishes:
        """Return what any process wanted when the last step began; with one process, what it wants now."""
        return heard() if world_size() > 1 else self._wishes(steps=self._steps_since_save)

    def _save_if_due(self) -> None:
        wishes = self._agreed()
        if wishes.save or wishes.stop:
            self._save()
        self._stop_if_asked()

    def _save(self) -> None:
        self._steps_since_save, self._saved_at = 0, time.perf_counter()
        if self._request is not None:  # there is a run folder, be it another process's
            self._state.clock.tick()
            state = self._state.state_dict()
            if self._folder is not None:
                self._folder.save_checkpoint(state)
            self._state.clock.saving += self._state.clock.tick()

    def _stop_if_asked(self) -> None:
        if self._request is None or not self._agreed().stop:
            return
        error = Interrupted(largest_over_ranks(self._request.signal_number or 0))  # none leaves before all is saved
        if self._folder is not None:
            self._progress.message(
                f"The search was {error} in epoch {self._state.epoch}, before step {self._state.step}; it is saved in "
                f"'{self._folder.path}'. Go on with resume=True (archgrad search --resume {self._folder.path})."
            )
        raise error
