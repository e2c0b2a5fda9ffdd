"""The training loop of an evaluator over a script's own loaders: Lightning's order of calls, on one device."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from archgrad.errors import DataError, OptionError
from archgrad.nested import map_tensors, tensors_in
from archgrad.nni.lightning_modules import LightningModule
from archgrad.terminal import say

__all__ = ["call_hook", "configured", "fit_module", "loss_of"]


def fit_module(
    module: LightningModule, model: nn.Module, train: Any, valid: Any, *, trainer: Any
) -> list[dict[str, float]]:
    """Train a network in place, in the order of the loader and with the caller's random numbers.

    Args:
        module: Tells the steps, and gets the network.
        model: A plain network.
        train: Iterable of batches.
        valid: The same, to judge by; None judges nothing.
        trainer: Tells epochs, device, clipping, the batches of an epoch, and whether to write.

    Returns:
        One row an epoch of what the steps have logged, means over samples. The network is left in evaluation mode.

    Raises:
        DataError: There are no training batches.
        OptionError: `configure_optimizers` returns several optimizers.
    """
    if train is None:
        raise DataError("There is nothing to train on. Give the evaluator train_dataloaders=DataLoader(...).")
    module.set_model(model)
    module.to(trainer.device)
    module.trainer = trainer
    optimizer, scheduler, each_step = configured(module.configure_optimizers())
    trainer.optimizers = [optimizer]
    call_hook(module, "on_fit_start")
    call_hook(module, "on_train_start")
    history = []
    for module.current_epoch in range(trainer.epochs):
        module.train()
        means = _Means()
        call_hook(module, "on_train_epoch_start")
        means.add(module, 0)
        for number, batch in enumerate(islice(train, trainer.batches)):
            batch = map_tensors(batch, lambda tensor: tensor.to(trainer.device))
            call_hook(module, "on_train_batch_start", batch, number)
            output = module.training_step(batch, number)
            if (loss := loss_of(output)) is not None:  # as Lightning has it, a step that returns nothing is left out
                optimizer.zero_grad()
                loss.backward()
                if trainer.grad_clip:
                    nn.utils.clip_grad_norm_(model.parameters(), trainer.grad_clip)
                optimizer.step()
            call_hook(module, "on_train_batch_end", output, batch, number)
            means.add(module, _samples(batch))
            module.global_step += 1
            if scheduler is not None and each_step:
                scheduler.step()
        if not means.samples:
            raise DataError("The training loader has no batches. Give a smaller batch_size, or more data.")
        judged = _judge(module, valid, trainer)
        module.train()
        call_hook(module, "on_train_epoch_end")
        means.add(module, 0)
        if scheduler is not None and not each_step:
            scheduler.step()
        row = means.values() | judged
        history.append(row)
        if not trainer.quiet:
            text = ", ".join(f"{name} {value:.4f}" for name, value in row.items())
            say(f"epoch {module.current_epoch}: {text}", error=True)
    call_hook(module, "on_train_end")
    call_hook(module, "on_fit_end")
    module.eval()
    return history


@torch.no_grad()
def _judge(module: LightningModule, valid: Any, trainer: Any) -> dict[str, float]:
    module.eval()
    means = _Means()
    call_hook(module, "on_validation_epoch_start")
    for number, batch in enumerate(islice(valid if valid is not None else (), trainer.batches)):
        batch = map_tensors(batch, lambda tensor: tensor.to(trainer.device))
        module.validation_step(batch, number)
        means.add(module, _samples(batch))
    call_hook(module, "on_validation_epoch_end")
    means.add(module, 0)
    return means.values()


def call_hook(module: LightningModule, hook: str, *arguments: Any) -> None:
    """Call a method that a module may have."""
    if callable(method := getattr(module, hook, None)):
        method(*arguments)


def loss_of(output: Any) -> Any:
    """Return the loss of what a training step returned, itself or a dict with it; None where there is none."""
    return output["loss"] if isinstance(output, Mapping) else output


def _samples(batch: Any) -> int:
    return max(len(next(tensors_in(batch))), 1)


def configured(given: Any) -> tuple[Optimizer, Any, bool]:
    """Return the optimizer, its scheduler or None, and whether that goes on after each step, not each epoch."""
    optimizers, schedulers = given, None
    if isinstance(given, Mapping):
        optimizers, schedulers = given["optimizer"], given.get("lr_scheduler")
    elif isinstance(given, tuple | list) and len(given) == 2 and isinstance(given[0], tuple | list):
        optimizers, schedulers = given
    found = []
    for several in (optimizers, schedulers):
        listed = list(several) if isinstance(several, tuple | list) else [several]
        if len(listed) > 1:
            raise OptionError("configure_optimizers must return one optimizer, but returns several. Return one.")
        found.append(listed[0] if listed else None)
    optimizer, scheduler = found
    if not isinstance(optimizer, Optimizer):
        raise OptionError(f"configure_optimizers must return an optimizer, but returns {type(optimizer).__name__}.")
    settings = scheduler if isinstance(scheduler, Mapping) else {"scheduler": scheduler}
    interval = settings.get("interval", "epoch")
    if set(settings) - {"scheduler", "interval", "name"} or interval not in ("epoch", "step"):
        raise OptionError(
            f"lr_scheduler takes scheduler and interval, 'epoch' or 'step', but got {dict(settings)!r}. Leave the rest."
        )
    if isinstance(settings["scheduler"], torch.optim.lr_scheduler.ReduceLROnPlateau):
        raise OptionError(
            "ReduceLROnPlateau needs a metric at each step, which is not handed on. Take another schedule."
        )
    return optimizer, settings["scheduler"], interval == "step"


class _Means:
    """Means over samples of what the steps log; what is logged between steps is kept as it is."""

    def __init__(self) -> None:
        self.samples = 0
        self._sums: dict[str, list[float]] = {}
        self._alone: dict[str, float] = {}

    def add(self, module: LightningModule, samples: int) -> None:
        """Take what was logged since the last call."""
        self.samples += samples
        for name, value in module.logged.items():
            if samples:
                total = self._sums.setdefault(name, [0.0, 0.0])
                total[0] += value * samples
                total[1] += samples
            else:
                self._alone[name] = value
        module.logged = {}

    def values(self) -> dict[str, float]:
        return {**self._alone, **{name: total / count for name, (total, count) in self._sums.items()}}
