"""NNI's modules for Lightning: what is computed of a batch and how the weights move, also by methods of a subclass."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from archgrad.checks import check_real
from archgrad.errors import OptionError

__all__ = ["HOOKS", "ClassificationModule", "LightningModule", "RegressionModule", "SupervisedLearningModule"]

HOOKS = (
    *("on_fit_start", "on_train_start", "on_train_epoch_start", "on_train_batch_start", "on_train_batch_end"),
    *("on_train_epoch_end", "on_train_end", "on_validation_epoch_start", "on_validation_epoch_end", "on_fit_end"),
)
"""Methods that a training calls, those of a batch with (batch, its number) or (outputs, batch, its number)."""
_NOT_CALLED = (
    *("optimizer_step", "optimizer_zero_grad", "configure_gradient_clipping", "lr_scheduler_step", "backward"),
    *("train_dataloader", "val_dataloader", "training_epoch_end", "validation_epoch_end", "training_step_end"),
    *("validation_step_end", "setup", "prepare_data", "configure_callbacks", "transfer_batch_to_device"),
)


class LightningModule(nn.Module):
    """What a training computes of a batch, and how the weights move, by methods of a subclass.

    `fit` of an evaluator calls what Lightning would: `configure_optimizers`, `training_step(batch, number)`,
    `validation_step(batch, number)`, and those in `HOOKS` that there are. A search calls fewer of them (see
    `archgrad.nni.steps_in_search`).

    Attributes:
        model: The network that is trained, also called `net`.
        hparams: Settings, as attributes.
        current_epoch: From 0.
        global_step: Steps so far.
        trainer: Of the training that runs.

    Raises:
        OptionError: The subclass has a method of Lightning's that is not called.
    """

    def __init__(self) -> None:
        super().__init__()
        kind = type(self)
        methods = {name for base in kind.__mro__ if base.__module__ != __name__ for name in vars(base)}
        methods -= set(dir(nn.Module))
        uncalled = [
            name for name in sorted(methods) if name in _NOT_CALLED or (name[:3] == "on_" and name not in HOOKS)
        ]
        if uncalled or getattr(self, "automatic_optimization", True) is not True:
            raise OptionError(
                f"{kind.__name__} has {uncalled[0] if uncalled else 'automatic_optimization=False'}, which is not "
                f"called here. Called are training_step, validation_step, configure_optimizers and "
                f"{', '.join(HOOKS)}; or train in a loop of your own."
            )
        self.hparams = SimpleNamespace()
        self.metrics: dict[str, Any] = {}
        self.model: Any = None
        self.current_epoch = self.global_step = 0
        self.trainer: Any = None
        self.weights: list[nn.Parameter] | None = None
        """What a search trains; None where that is the network's own."""
        self.outputs_of_batch: tuple[Any, Any] | None = None
        """Of a search: what stands for a batch, and what the supernet made of it."""
        self.logged: dict[str, float] = {}
        """What the step that runs has logged, by name."""

    @property
    def is_own(self) -> bool:
        """Whether it is of a script's own class."""
        return type(self) not in (ClassificationModule, RegressionModule)

    @property
    def net(self) -> Any:
        """The network that is trained, as NNI 3 calls it."""
        return self.model

    @property
    def device(self) -> torch.device:
        """Where it is trained."""
        return next(iter(self.parameters())).device

    def set_model(self, model: nn.Module) -> None:
        """Set the network that is trained."""
        self.model = model

    def forward(self, x: Any) -> Any:
        """Return what the network returns."""
        if self.outputs_of_batch is None:
            return self.model(x)
        batch, outputs = self.outputs_of_batch
        if x is not batch:
            raise OptionError("In a search, training_step can give the network the inputs of the batch alone.")
        return outputs

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Return the weights that are trained."""
        return super().parameters(recurse) if self.weights is None else iter(self.weights)

    def save_hyperparameters(self, *names: str) -> None:
        """Keep arguments of the `__init__` that calls this in `hparams`: those of these names, or all."""
        given = sys._getframe(1).f_locals
        kept = names or [name for name in given if name not in ("self", "__class__")]
        self.hparams.__dict__.update({name: given[name] for name in kept})

    def log(self, name: str, value: Any, **options: Any) -> None:
        """Keep a number for the epoch's means, which the evaluator's `history` has; options say how it is shown."""
        self.logged[name] = float(value.detach() if isinstance(value, Tensor) else value)

    def log_dict(self, values: Mapping[str, Any], **options: Any) -> None:
        """Keep several numbers."""
        for name, value in values.items():
            self.log(name, value)

    def configure_optimizers(self) -> Any:
        """Return an optimizer, or as Lightning takes it one with a scheduler."""
        raise OptionError(f"{type(self).__name__} needs configure_optimizers(self), which returns an optimizer.")

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Return the loss of a batch."""
        raise OptionError(f"{type(self).__name__} needs training_step(self, batch, batch_idx), which returns a loss.")

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        """Measure a batch; by default nothing is measured."""


class SupervisedLearningModule(LightningModule):
    """A loss, metrics and an optimizer, and the steps that use them; a subclass may have its own.

    Attributes:
        criterion: The loss of (outputs, targets).
        metrics: Name -> function of (outputs, targets).
        hparams: `learning_rate` and `weight_decay`.
    """

    def __init__(
        self,
        criterion: type[nn.Module],
        metrics: Mapping[str, Callable[[Tensor, Tensor], Tensor]],
        learning_rate: float = 0.001,
        weight_decay: float = 0.0,
        optimizer: Callable[..., Optimizer] = Adam,
        export_onnx: bool = False,
    ) -> None:
        super().__init__()
        if export_onnx:
            raise OptionError(
                "export_onnx is not done by a training. Leave it out, and call archgrad.export.export_onnx(network, "
                "file, ...) on the result."
            )
        check_real("learning_rate", learning_rate, above=0, remedy="Give for example 0.001")
        check_real("weight_decay", weight_decay, remedy="0 is off")
        self.criterion = criterion()
        self.metrics = dict(metrics)
        self.optimizer = optimizer
        self.hparams = SimpleNamespace(learning_rate=learning_rate, weight_decay=weight_decay)

    def optimizer_of(self, parameters: Any) -> Optimizer:
        """Return the optimizer of some parameters."""
        return self.optimizer(parameters, lr=self.hparams.learning_rate, weight_decay=self.hparams.weight_decay)

    def configure_optimizers(self) -> Any:
        """Return an optimizer, or as Lightning takes it one with a scheduler."""
        return self.optimizer_of(self.parameters())

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Return the loss of a batch."""
        return self._step("train", batch)

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        """Measure a batch."""
        return self._step("val", batch)

    def _step(self, part: str, batch: Any) -> Tensor:
        inputs, targets = batch
        outputs = self(inputs)
        loss = self.criterion(outputs, targets)
        self.log(f"{part}_loss", loss)
        for name, metric in self.metrics.items():
            self.log(f"{part}_{name}", metric(outputs.detach(), targets))
        return loss


def _accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(1) == targets).float().mean()


def _squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return ((outputs - targets) ** 2).mean()


class ClassificationModule(SupervisedLearningModule):
    """Train a classifier.

    Args:
        criterion: Class of the loss of (logits, class numbers).
        learning_rate: Above 0; it stays as it is.
        weight_decay: At least 0.
        optimizer: Class, called with parameters, `lr` and `weight_decay`.
        export_onnx: False; see `archgrad.export.export_onnx`.
        num_classes: Taken as in NNI, where a metric asks for it; here nothing does.
    """

    def __init__(
        self,
        criterion: type[nn.Module] = nn.CrossEntropyLoss,
        learning_rate: float = 0.001,
        weight_decay: float = 0.0,
        optimizer: Callable[..., Optimizer] = Adam,
        export_onnx: bool = False,
        num_classes: int | None = None,
    ) -> None:
        del num_classes
        super().__init__(criterion, {"acc": _accuracy}, learning_rate, weight_decay, optimizer, export_onnx)


class RegressionModule(SupervisedLearningModule):
    """Train a network whose outputs are numbers; arguments as `ClassificationModule`."""

    def __init__(
        self,
        criterion: type[nn.Module] = nn.MSELoss,
        learning_rate: float = 0.001,
        weight_decay: float = 0.0,
        optimizer: Callable[..., Optimizer] = Adam,
        export_onnx: bool = False,
    ) -> None:
        super().__init__(criterion, {"mse": _squared_error}, learning_rate, weight_decay, optimizer, export_onnx)
