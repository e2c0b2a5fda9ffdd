"""A search as a run of the engine: alphas and weights in turn, one architecture an epoch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from archgrad.architecture import Architecture
from archgrad.batches import prepare
from archgrad.bilevel import search_step
from archgrad.bilevel.passes import Batch
from archgrad.buffers import copied_buffers, set_buffers
from archgrad.discretize import discretize
from archgrad.distributed import rank, world_size
from archgrad.engine import EpochSummary, Run
from archgrad.engine.precision import autocast, check_device
from archgrad.epoch_end import EpochEnd
from archgrad.errors import NonFiniteError
from archgrad.loss_scale import LossScale
from archgrad.options import names_of
from archgrad.rank_state import place_buffers, seed_for_rank
from archgrad.runs import count_in, load_optimizer, rows_in, seed_everything
from archgrad.schedules import Progress as Done
from archgrad.schedules import Schedule
from archgrad.search.epoch import (
    LOSSES,
    add_step,
    figures_of,
    further_columns,
    known,
    of_alphas,
    of_stopping,
    publish,
    stopped_at,
)
from archgrad.search.loaders import Halves
from archgrad.search.measured_halves import MeasuredHalves
from archgrad.search.members import Members
from archgrad.search.meter import Meter
from archgrad.search.optimizers import set_learning_rate
from archgrad.search.search_checkpoint import FORMAT, VERSION, check_checkpoint
from archgrad.search.search_options import SearchOptions, SearchRunOptions
from archgrad.search.search_path import SearchPaths
from archgrad.search.short_forms import modernised
from archgrad.search.stage_builder import StageBuilder
from archgrad.search.supernet_state import load_supernet_state, supernet_state
from archgrad.search.terms import of_regularizers, say_remarks, say_result, with_costs
from archgrad.search.widening import StageState
from archgrad.search.within_budget import within_budgets
from archgrad.skip_dropout import set_skip_dropout
from archgrad.stopping import Stop
from archgrad.tasks import Chosen, loss_on

__all__ = ["SearchRun"]


class SearchRun(Run[Architecture]):
    """Searches; its result is the architecture after the last epoch, or the one that was stopped for.

    Args:
        builder: Builds the supernets of later stages and members.
        first: What it built for the first.
        halves: Opens the batches for the weights and for the alphas.
        options: The search's options.
        chosen: What is learnt.
        samples: Of the training data, both halves.
        settings: What the result depends on beside the seed; part of each architecture's provenance, of no checkpoint.

    Attributes:
        members: Of the ensemble, and where the search stands among them.
    """

    command, title, kind = "search", "The search", "search"
    may_differ = (*names_of(SearchRunOptions), "on_nonfinite")
    modernised = staticmethod(modernised)

    def __init__(
        self,
        builder: StageBuilder,
        first: StageState,
        halves: Halves,
        *,
        options: SearchOptions,
        chosen: Chosen,
        samples: int,
        settings: Mapping[str, Any],
    ) -> None:
        method = options.chosen_method
        self._further_epochs = method.selection.further_epochs(first.supernet)
        self.members = Members(method, options.total_epochs + self._further_epochs, seed=options.seed)
        super().__init__(
            first.supernet.network,
            halves.open(first.supernet, options.seed),
            device=next(iter(first.supernet.alphas.values())).device,
            epochs=self.members.epochs,
            batch_size=options.batch_size,
            seed=options.seed,
            fixed_length=options.fixed_length or method.fixed_length,
        )
        self._builder, self._halves, self._stage = builder, halves, -1
        self._use(first)
        self._options, self._method = options, method
        self._dtype = torch.float64 if options.precision == "64" else torch.float32
        self._loss = loss_on(chosen.task.loss, self.device, self._dtype)
        self._paths = SearchPaths(options, self._loss, builder, first)
        self._measured, self.shown = MeasuredHalves(chosen.task, options), figures_of(chosen.task)
        self.directions, self._samples, self.settings = chosen.task.directions, samples, settings
        self._meter, self._skipped, self._scale = Meter(), 0, LossScale(enabled=options.precision == "fp16")
        check_device(self.device, options.precision)
        self._architecture: Architecture | None = None
        self._rate, self._updates_alphas = 0.0, True

    def _use(self, state: StageState) -> None:
        self._state = state
        self.supernet, self._weights_optimizer, self._alphas_optimizer, self.regularizers = state
        self.network = self.supernet.network

    @property
    def stop(self) -> Stop | None:
        """Why the search ends before its last epoch, if it does; the members of an ensemble end one by one."""
        return self.members.stop(self.history) if self._method.ensemble is None else None

    @property
    def _own_epoch(self) -> int:
        """The epoch that is running, or comes next, counted from the first of its member."""
        return self.epoch - self.members.first_epoch

    @property
    def finished(self) -> bool:
        return self.told_to_stop or self.members.all_over(self.history)

    @property
    def batches_done(self) -> int:
        return self._own_epoch * self.batches_per_epoch + self.step

    @property
    def remedies(self) -> str:
        return (
            f"a smaller batch_size (now {self._options.batch_size}); accumulation={2 * self._options.accumulation}, "
            f"which keeps the batch; activation_checkpointing=True; fewer channels or cells; precision='bf16'."
        )

    @property
    def replicated(self) -> Mapping[str, Iterable[Tensor]]:
        return {"alphas": self.supernet.alphas.values(), "weights": self.supernet.weights.values()}

    # --- an epoch -----------------------------------------------------------------------------------------------------

    def start_epoch(self) -> None:
        options, method = self._options, self._method
        if self.epoch == 0 and method.stopping and (remark := method.stopping.remark(options.total_epochs)):
            self.progress.message(f"Warning: {remark}")
        say_remarks(self.regularizers if self.epoch == 0 else (), self.progress.message)
        if self.members.over(self.history):
            self._begin_member()
        place = method.place_of(self._search_epoch)
        if place.number != self._stage:
            self._stage = place.number
            self._use(self._builder.begin(place.number, self._state, self.progress.message, self.members.number))
        self._builder.keep_latencies(self.folder)
        self.supernet.train()
        self._paths.begin(self._state, method.network_stage(self._stage), self.folder)
        set_skip_dropout(self.network, place.stage.skip_dropout_at(place.epoch))
        if isinstance(method.alphas_optimizer.learning_rate, Schedule):
            method.alphas_optimizer.set_learning_rate(self._alphas_optimizer, self._done())
        self._updates_alphas = place.updates_alphas
        self._rate = self._set_learning_rate()

    def _set_learning_rate(self) -> float:
        optimizer, options, tuned = self._weights_optimizer, self._options, self._own_epoch - self._options.total_epochs
        if tuned >= 0:
            if tuned == 0 and self.step == 0:
                optimizer.state.clear()  # the selection tunes as if from the beginning
            last = math.inf if options.schedule == "constant" else options.learning_rate_min
            share, epochs = self._method.selection.tune_rate, self._further_epochs
            return set_learning_rate(optimizer, Done(tuned, epochs), last=last, share=share)
        if options.schedule == "constant":
            return float(optimizer.param_groups[0]["lr"])
        return set_learning_rate(optimizer, self._method.weights_progress(self._done()), last=options.learning_rate_min)

    @property
    def _search_epoch(self) -> int:
        """The epoch that parts which change with it see: while the selection tunes, the search's last."""
        return min(self._own_epoch, self._options.total_epochs - 1)

    def _begin_member(self) -> None:
        """Keep what the member that has ended decided, and begin the next as the search with its seed would."""
        self.progress.message(self.members.next(self._ended(), self.epoch))
        seed_everything(self.members.seed)
        self._use(self._builder.build(0, self.members.number))
        self.streams = self._halves.open(self.supernet, self.members.seed)
        seed_for_rank(self.members.seed)
        self._skipped, self._scale, self._stage = 0, LossScale(enabled=self._scale.enabled), -1

    def _done(self) -> Done:
        return Done(self._search_epoch, self._options.total_epochs, self.step)

    def _cast(self, batch: Batch) -> Batch:
        """Bring inputs that are no images (those have their transform) to the weights' precision."""
        return prepare(batch[0], dtype=self._dtype, channels_last=False), batch[1]

    def take_step(self, batches: Sequence[Batch]) -> None:
        options, method = self._options, self._method
        train_batch, valid_batch = batches = [self._cast(batch) for batch in batches]
        self._paths.settle(self._state, batches, self._done(), self.folder, self.progress.message)
        skips = options.on_nonfinite == "skip"
        buffers = copied_buffers(self.network) if skips or self._scale.enabled else {}
        try:
            with autocast(self.device, options.precision), self._scale.applied():
                report = search_step(
                    self.supernet,
                    train_batch,
                    valid_batch,
                    step=method.step,
                    weights_optimizer=self._weights_optimizer,
                    alphas_optimizer=self._alphas_optimizer,
                    loss=self._loss,
                    grad_clip=options.grad_clip,
                    weights_first=method.weights_first,
                    accumulation=options.accumulation,
                    progress=self._done(),
                    regularizers=self.regularizers,
                    perturbation=method.perturbation,
                    weights_rules=method.weights_rules,
                    alphas_grad_clip=method.alphas_grad_clip,
                    update_alphas=self._updates_alphas,
                )
            self._scale.step_taken()
            add_step(self._meter, report, train_batch, valid_batch, self._measured)
        except NonFiniteError as error:
            if not (self._scale.can_fall() or skips):
                raise stopped_at(error, self.epoch, self.step, self.folder) from error
            # One forward pass would leave BatchNorm's running statistics at nan for good.
            set_buffers(self.network, buffers, device=self.device)
            self._skipped += 1

    def figures(self) -> Mapping[str, Any]:
        architecture = discretize(self.supernet, scores=self._method.selection.scores(self.supernet))
        return known({**self._meter.means(), **self._measured.values(), **of_alphas(self.supernet, architecture)})

    def end_epoch(self) -> EpochSummary:
        steps = self.batches_per_epoch
        done = Done(self._search_epoch, self._options.total_epochs, steps - 1)
        self.supernet.progress = done  # a run may be resumed after the last step of an epoch
        tuned = self._own_epoch + 1 - self._options.total_epochs
        if tuned >= 0:
            end = self._end(self._own_architecture(self.epoch), done)
            self._method.selection.settle(end, tuned, self.progress.message)
        architecture = self._own_architecture(self.epoch)
        self._architecture = together = self.together(architecture)
        alone = self._method.ensemble is None
        own = together if alone else within_budgets(architecture, self.supernet, self.regularizers)
        means, self._meter = {**self._meter.means_over_ranks(self.device), **self._measured.end()}, Meter()
        row = {
            "epoch": self.epoch,
            **self.members.column,
            "learning_rate": self._rate,
            **{name: means.get(name) for name in LOSSES},
            **of_alphas(self.supernet, architecture),
            "alphas_gradient_norm": means.get("alphas_gradient_norm"),
            "weights_gradient_norm": means.get("weights_gradient_norm"),
            "temperature": self.supernet.relaxation.temperature(done),
            "skipped_steps": self._skipped,
            **{name: means.get(name) for name in further_columns(means, self._method.regularizers)},
            **of_regularizers(self.regularizers, self.supernet, own),
        }
        row |= of_stopping(self._method.stopping, self._end(architecture, done), taken=row)
        if self.history and "skip_share" not in self.history[0]:
            del row["skip_share"]  # a run of before there was this column goes on with its own
        self.members.remember(architecture)
        images = sum(self.streams[0].samples_in_batch(self._own_epoch * steps + index) for index in range(steps))
        return EpochSummary(row, known(row), images)

    def _own_architecture(self, epoch: int) -> Architecture:
        """Return what the running member's alphas decide at the end of an epoch (0-based), with its provenance."""
        weights = sum(weight.numel() for weight in self.supernet.weights.values())
        settings = {"search": {**self.settings, "weights": weights}} if self.settings else {}
        return discretize(
            self.supernet,
            space=getattr(self.network, "space_name", None),
            provenance={"epoch": epoch, "seed": self.members.seed, **settings},
            scores=self._method.selection.scores(self.supernet),
        )

    def together(self, own: Architecture) -> Architecture:
        """Return what all members so far decide with the running one's, within the budgets, and what it costs."""
        found = self.members.together(own, self.supernet)
        return with_costs(within_budgets(found, self.supernet, self.regularizers), self.regularizers)

    def _end(self, architecture: Architecture, done: Done) -> EpochEnd:
        """Return the end of the running epoch, as rules and selections see it."""
        steps = self.batches_per_epoch
        first = self._own_epoch * steps

        def batches(start: int, stop: int) -> Iterator[Batch]:
            return map(self._cast, islice(self.streams[1].batches(start), stop - start))

        return EpochEnd(
            self.supernet,
            architecture,
            done,
            self._loss,
            valid_batch=lambda: next(batches(first + steps - 1, first + steps)),
            valid_batches=lambda: batches(first, first + steps),
            within_budget=lambda found: all(part.broken(found) is None for part in self.regularizers),
            accumulation=self._options.accumulation,
        )

    def told(self) -> tuple[Architecture | None, nn.Module]:
        return self._architecture, self.supernet

    def publish_epoch(self) -> None:
        """Write, log and draw the architecture of an epoch, and warn of a collapse."""
        assert self._architecture is not None
        warning = publish(
            self._architecture, self.epoch, self.supernet, self.history, folder=self.folder, loggers=self.loggers
        )
        if warning is not None:
            self.progress.message(warning)

    def result(self) -> Architecture:
        """Return the last epoch's architecture, or the one stopped for, within the budgets; say what is to be said."""
        stopped = self.members.stop(self.history) is not None
        last = None if stopped else self._architecture
        architecture = last or self.together(self._ended() if stopped else self._own_architecture(self.epoch - 1))
        if self.folder is not None and stopped:
            self.folder.save_architecture(architecture)
        say_result(architecture, self.regularizers, self.progress.message)
        return architecture

    def present_architecture(self) -> Architecture:
        """Return what the alphas decide at present, also within an epoch; within the budgets."""
        return self.together(self._own_architecture(self.epoch if self.step else max(self.epoch - 1, 0)))

    def _ended(self) -> Architecture:
        """Return what the member that has ended decided: by its last alphas, or by those that it was stopped for."""
        stop = self.members.stop(self.history)
        if stop is None:
            return self._own_architecture(self.epoch - 1)
        architecture = self.members.remembered(stop.epoch)
        epoch = architecture.provenance["epoch"] + 1
        self.progress.message(
            f"Stopped after epoch {self.epoch}: {stop.reason}. The result is the architecture of epoch {epoch}."
        )
        return architecture

    # --- checkpoints --------------------------------------------------------------------------------------------------

    def common_state(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            **supernet_state(self.supernet),
            **self.members.state_dict(),
            "supernet": dict(self.supernet.state_dict()),
            "generator": self.supernet.generator.get_state(),
            "weights_optimizer": self._weights_optimizer.state_dict(),
            "alphas_optimizer": self._alphas_optimizer.state_dict(),
            "skipped": self._skipped,
            "loss_scale": self._scale.state_dict(),
            "samples": self._samples,
            "history": self.history,
        }

    def sums_state(self) -> dict[str, Any]:
        return {"meter": self._meter.state_dict(), "measured": self._measured.state_dict()}

    def check_state(self, state: Any) -> None:
        check_checkpoint(state, self._samples)

    def load_states(self, state: Mapping[str, Any], parts: Sequence[Mapping[str, Any]]) -> None:
        self.members.load_state_dict(state)
        ended = count_in(state, "epoch") - (count_in(state, "step") == 0)  # the last epoch that a step was taken in
        ended = min(max(ended - self.members.first_epoch, 0), self._options.total_epochs - 1)
        self._stage = self._method.place_of(ended).number
        number, member = self._method.network_stage(self._stage), self.members.number
        if number or member:
            self._use(self._builder.build(number, member))
        if member:
            self.streams = self._halves.open(self.supernet, self.members.seed)
        names = {name.removeprefix("network.") for name in state["supernet"]}
        place_buffers(self.network, parts, names, device=self.device)
        self.supernet.load_state_dict(state["supernet"])
        self.supernet.generator.set_state(state["generator"].cpu().to(torch.uint8))
        load_optimizer(self._weights_optimizer, state["weights_optimizer"])
        load_optimizer(self._alphas_optimizer, state["alphas_optimizer"])
        self._skipped = count_in(state, "skipped")
        self._scale.load_state_dict(state.get("loss_scale", {}))  # earlier versions had none
        self.history = rows_in(state["history"], "the history")
        load_supernet_state(self.supernet, state)
        self._meter = Meter.loaded([part["meter"] for part in parts], rank(), world_size())
        self._measured.load([part.get("measured", {}) for part in parts])
