"""The search loop: alphas and weights in turn, one architecture an epoch."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import torch

from archgrad.architecture import Architecture
from archgrad.batches import prepare
from archgrad.bilevel import StepReport, search_step
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
from archgrad.epoch_end import EpochEnd
from archgrad.errors import NonFiniteError
from archgrad.methods import Method
from archgrad.regularizers import Regularizer
from archgrad.runs import (
    CheckpointSchedule,
    Interrupted,
    Loggers,
    Progress,
    RunFolder,
    StopRequest,
    memory_explained,
)
from archgrad.schedules import Progress as Done
from archgrad.schedules import Schedule
from archgrad.search.epoch import architecture_after, close_epoch, figures_now
from archgrad.search.meter import Meter, Metrics
from archgrad.search.optimizers import set_learning_rate
from archgrad.search.options import SearchOptions
from archgrad.search.state import SearchState
from archgrad.sharing import send_state
from archgrad.stopping import Stop

__all__ = ["Loop"]


class Loop:
    """Searches from wherever the state stands to the last epoch.

    Args:
        state: What is searched, and how far it is.
        train: Batches for the weights.
        valid: Batches for the alphas.
        options: The search's options.
        method: How alphas are relaxed, moved and read.
        loss: Function of (outputs, targets) (see `archgrad.losses.Loss`).
        metrics: Function of (outputs, targets) that returns name -> mean over the batch.
        pace: When checkpoints are written.
        folder: Where everything goes; None writes nothing.
        loggers: Where rows go besides.
        progress: Shows what happens.
        request: Says whether to stop; None never does.

    Attributes:
        stop: Why the search ended before its last epoch, if it did.
    """

    def __init__(
        self,
        state: SearchState,
        train: BatchStream,
        valid: BatchStream,
        *,
        options: SearchOptions,
        method: Method,
        loss: Loss,
        metrics: Metrics,
        pace: CheckpointSchedule,
        folder: RunFolder | None,
        loggers: Loggers,
        progress: Progress,
        request: StopRequest | None,
    ) -> None:
        self._state, self._train, self._valid = state, train, valid
        self._options, self._method, self._loss, self._metrics = options, method, loss, metrics
        self._pace, self._folder, self._loggers = pace, folder, loggers
        self._progress, self._request = progress, request
        self._device = next(iter(state.supernet.alphas.values())).device
        self._steps_since_save, self._saved_at = 0, time.perf_counter()
        self._updates_alphas = True
        self.stop: Stop | None = None

    def run(self) -> Architecture:
        """Search to the end and return the architecture after the last epoch, or the one that was stopped for."""
        forget_wishes()
        state, epochs = self._state, self._options.epochs
        architecture = self._architecture(state.epoch - 1)
        done = state.epoch * self._train.batches_per_epoch + state.step
        batches = zip(self._train.batches(done), self._valid.batches(done), strict=False)
        self.stop = self._decided()
        while state.epoch < epochs and self.stop is None:
            rate = self._start_epoch()
            while state.step < self._train.batches_per_epoch:
                waited = self._waited()
                train_batch, valid_batch = (self._cast(batch) for batch in next(batches))
                state.clock.waiting += self._waited() - waited
                self._take_step(train_batch, valid_batch)
                self._save_if_due()
            architecture = self._end_epoch(rate)
        return architecture if self.stop is None else self._stopped(self.stop)

    def _architecture(self, epoch: int) -> Architecture:
        return architecture_after(self._state, self._method.selection, epoch=epoch, seed=self._options.seed)

    def _decided(self) -> Stop | None:
        stopping, history = self._method.stopping, self._state.history
        return None if stopping is None or not history else stopping.decide(history)

    def _stopped(self, stop: Stop) -> Architecture:
        """Say why the search ended early, and return the architecture of the epoch that it ended for."""
        architecture = Architecture.from_json(self._state.past[stop.epoch])
        if self._folder is not None:
            self._folder.save_architecture(architecture)
        self._progress.message(
            f"Stopped after epoch {self._state.epoch}: {stop.reason}. The result is the architecture of epoch "
            f"{stop.epoch + 1}."
        )
        return architecture

    def _cast(self, batch: Batch) -> Batch:
        """Bring inputs that are no images (those have their transform) to the weights' precision."""
        dtype = torch.float64 if self._options.precision == "64" else torch.float32
        return prepare(batch[0], dtype=dtype, channels_last=False), batch[1]

    def _waited(self) -> float:
        return self._train.waiting_seconds + self._valid.waiting_seconds

    def _start_epoch(self) -> float:
        """Set what changes with the epoch; return the learning rate."""
        state, options, method = self._state, self._options, self._method
        state.supernet.train()
        place = method.place_of(state.epoch)
        if place.begins and state.step == 0 and place.stage.keep is not None:
            state.supernet.prune(place.stage.keep, method.selection.scores(state.supernet))
        if isinstance(method.alphas_optimizer.learning_rate, Schedule):
            method.alphas_optimizer.set_learning_rate(state.alphas_optimizer, self._done())
        self._updates_alphas = place.updates_alphas
        self._progress.start_epoch(state.epoch)
        state.clock.tick()
        if options.schedule == "constant":
            return float(state.weights_optimizer.param_groups[0]["lr"])
        return set_learning_rate(state.weights_optimizer, state.epoch, options.epochs, last=options.learning_rate_min)

    def _done(self) -> Done:
        return Done(self._state.epoch, self._options.epochs, self._state.step)

    def _take_step(self, train_batch: Batch, valid_batch: Batch) -> None:
        state, options, method = self._state, self._options, self._method
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
                    step=method.step,
                    weights_optimizer=state.weights_optimizer,
                    alphas_optimizer=state.alphas_optimizer,
                    loss=self._loss,
                    grad_clip=options.grad_clip,
                    weights_first=method.weights_first,
                    accumulation=options.accumulation,
                    progress=self._done(),
                    regularizers=method.regularizers,
                    perturbation=method.perturbation,
                    alphas_grad_clip=method.alphas_grad_clip,
                    update_alphas=self._updates_alphas,
                )
            self._measure(report, train_batch, valid_batch)
        except NonFiniteError as error:
            if not skips:
                kept = "" if self._folder is None else f" The last checkpoint is kept in '{self._folder.path}'."
                raise NonFiniteError(
                    f"The search stopped in epoch {state.epoch + 1} at step {state.step + 1}. {error} Or leave "
                    f"such steps out with on_nonfinite='skip'.{kept}"
                ) from error
            # One forward pass would leave BatchNorm's running statistics at nan for good.
            set_buffers(state.supernet.network, buffers, device=self._device)
            state.skipped += 1
        self._progress.step(state.step, images=len(train_batch[1]) * world_size(), read=self._figures)
        state.step += 1
        self._steps_since_save += 1

    def _figures(self) -> dict[str, Any]:
        return figures_now(self._state, self._method.selection)

    def _measure(self, report: StepReport, train_batch: Batch, valid_batch: Batch) -> None:
        """Add a step's losses, gradient norms and metrics to the means of the epoch."""
        numbers = report.on_device()
        for half, batch, outputs, owner in (
            ("train", train_batch, report.train_outputs, "weights"),
            ("valid", valid_batch, report.valid_outputs, "alphas"),
        ):
            names = (f"{half}_loss", f"{owner}_gradient_norm")
            if not all(name in numbers for name in names):
                continue  # the alphas wait
            values = {f"{half}_{name}": value for name, value in self._metrics(outputs, batch[1]).items()}
            values |= {name: numbers[name] for name in names}
            self._state.meter.add(values, len(batch[1]))
        terms = {f"regularizer_{name}": value for name, value in report.regularizers.items()}
        self._state.meter.add(terms, len(valid_batch[1]))

    def _end_epoch(self, rate: float) -> Architecture:
        state = self._state
        steps = self._train.batches_per_epoch
        self._agree()
        architecture = self._architecture(state.epoch)
        done = Done(state.epoch, self._options.epochs, steps - 1)
        close_epoch(
            state,
            architecture,
            learning_rate=rate,
            images=sum(self._train.samples_in_batch(state.epoch * steps + i) for i in range(steps)),
            temperature=state.supernet.relaxation.temperature(done),
            regularizers=list(dict.fromkeys(_column(part) for part in self._method.regularizers)),
            probed=self._probed(architecture, done),
            device=self._device,
            folder=self._folder,
            loggers=self._loggers,
            progress=self._progress,
        )
        if self._method.stopping is not None:
            state.past.append(architecture.to_json())
            self.stop = self._decided()
        state.epoch, state.step, state.meter = state.epoch + 1, 0, Meter()
        state.clock.start_epoch()
        self._save()
        if state.epoch < self._options.epochs and self.stop is None:
            self._stop_if_asked()
        return architecture

    def _probed(self, architecture: Architecture, done: Done) -> Mapping[str, float | None]:
        """Return what the stopping rule measures."""
        stopping, steps = self._method.stopping, self._train.batches_per_epoch
        if stopping is None:
            return {}
        first = done.epoch * steps

        def batches(start: int, stop: int) -> Iterator[Batch]:
            return map(self._cast, islice(self._valid.batches(start), stop - start))

        probed = stopping.probe(
            EpochEnd(
                self._state.supernet,
                architecture,
                done,
                self._loss,
                valid_batch=lambda: next(batches(first + steps - 1, first + steps)),
                valid_batches=lambda: batches(first, first + steps),
            )
        )
        found: dict[str, float | None] = send_state(dict(probed))  # processes must decide alike
        return found

    def _agree(self) -> None:
        """Take over process 0's buffers, and make sure that the processes hold the same weights and alphas."""
        supernet = self._state.supernet
        broadcast_tensors(supernet.network.buffers())
        check_same(
            {"alphas": supernet.alphas.values(), "weights": supernet.weights.values()},
            when=f"after epoch {self._state.epoch + 1}",
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
                f"The search was {error} in epoch {self._state.epoch + 1}, before step "
                f"{self._state.step + 1}; it is saved in '{self._folder.path}'. Go on with "
                f"resume=True (archgrad search --resume {self._folder.path})."
            )
        raise error


def _column(regularizer: Regularizer) -> str:
    return f"regularizer_{type(regularizer).__name__}"
