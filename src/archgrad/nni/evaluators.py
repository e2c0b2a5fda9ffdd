"""NNI's evaluators: the loss, the optimizer of the weights and the data of a search, and training of its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Adam, Optimizer

from archgrad.checks import check_real
from archgrad.errors import OptionError
from archgrad.nni.fitting import fit_module
from archgrad.nni.lightning_modules import ClassificationModule, LightningModule, RegressionModule
from archgrad.runs import pick_device
from archgrad.sizes import check_whole

__all__ = ["Classification", "ClassificationModule", "Lightning", "Regression", "RegressionModule", "Trainer"]

_OFF: dict[str, tuple[Any, ...]] = {
    "logger": (False, None),
    "enable_checkpointing": (False,),
    "checkpoint_callback": (False,),
    "enable_model_summary": (False,),
    "weights_summary": (None,),
    "callbacks": (None, []),
    "num_sanity_val_steps": (0,),
    "strategy": (None, "auto"),
    "num_nodes": (1,),
    "precision": (32, "32", "32-true"),
    "deterministic": (False, None),
    "benchmark": (False, None),
    "accumulate_grad_batches": (1, None),
    "check_val_every_n_epoch": (1,),
}
"""Options of Lightning's trainer, and the values that ask for nothing which is not so here anyhow."""


class Trainer:
    """How long and where to train, by the options of Lightning's trainer that have a meaning here.

    Args:
        max_epochs: Passes over the training data, at least 1.
        gradient_clip_val: Largest L2 norm of the gradient; 0 or None is off.
        accelerator: "auto", "cpu", "gpu" or "cuda".
        devices: 1, or "auto".
        gpus: As in Lightning 1: 0 or None is the CPU, 1 a GPU; beside `accelerator` it is not needed.
        fast_dev_run: True or a number: train one epoch of one or so many batches.
        enable_progress_bar: False shows nothing.
        progress_bar_refresh_rate: As in Lightning 1: 0 shows nothing.
        log_every_n_steps: Steps from one line of progress of a search to the next.
        others: Further options of Lightning's, where they switch off what there is not.

    Attributes:
        callback_metrics: Of the last epoch, name -> value, after a training.
        optimizers: Of the training that runs, one.
    """

    def __init__(
        self,
        *,
        max_epochs: int | None = None,
        gradient_clip_val: float | None = None,
        accelerator: str = "auto",
        devices: int | str | None = None,
        gpus: int | None = None,
        fast_dev_run: bool | int = False,
        enable_progress_bar: bool = True,
        progress_bar_refresh_rate: int | None = None,
        log_every_n_steps: int | None = None,
        **others: Any,
    ) -> None:
        self.batches = int(fast_dev_run) or None
        if max_epochs is None and self.batches is None:
            raise OptionError("Give the number of epochs, for example max_epochs=10.")
        check_whole("max_epochs", 1 if self.batches else max_epochs, least=1, remedy="Give for example 10")
        self.epochs = 1 if self.batches else int(max_epochs or 1)
        check_real("gradient_clip_val", gradient_clip_val or 0.0, remedy="0 is off")
        if devices not in (None, 1, "auto"):
            raise OptionError(
                f"devices must be 1, but got {devices!r}. Start the script by torchrun to search on several devices."
            )
        for name, value in others.items():
            if name not in _OFF or value not in _OFF[name]:
                may = f"only {_OFF[name][0]!r}" if name in _OFF else "not taken"
                raise OptionError(
                    f"{name}={value!r} is Lightning's, which does not train here: it is {may}. Leave it out."
                )
        self.grad_clip = gradient_clip_val or 0.0
        self.device = _device(accelerator, gpus)
        self.quiet = not enable_progress_bar or progress_bar_refresh_rate == 0
        self.log_frequency = log_every_n_steps
        self.callback_metrics: dict[str, float] = {}
        self.optimizers: list[Optimizer] = []
        self.max_epochs = self.epochs


def _device(accelerator: str, gpus: int | None) -> torch.device:
    names = {"auto": "auto", "cpu": "cpu", "gpu": "cuda", "cuda": "cuda"}
    if accelerator not in names or gpus not in (None, 0, 1):
        raise OptionError(
            f"accelerator must be one of {', '.join(names)} and gpus 0 or 1, but got accelerator={accelerator!r}, "
            f"gpus={gpus!r}."
        )
    if accelerator == "auto" and gpus is not None:
        return pick_device("cuda" if gpus else "cpu")
    return pick_device(names[accelerator])


class Lightning:
    """A module, a trainer and loaders.

    Args:
        lightning_module: `ClassificationModule(...)` or `RegressionModule(...)`; for `fit` also one of a script's own.
        trainer: `Trainer(...)`.
        train_dataloaders: What the weights learn from.
        val_dataloaders: What the alphas of a search learn from; of a training, what it is judged on.
        train_dataloader: The same as `train_dataloaders`, as older versions call it.
        fit_kwargs: None.
    """

    def __init__(
        self,
        lightning_module: LightningModule,
        trainer: Trainer,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        train_dataloader: Any = None,
        fit_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        if not isinstance(lightning_module, LightningModule) or not isinstance(trainer, Trainer) or fit_kwargs:
            raise OptionError(
                f"Lightning takes a ClassificationModule or RegressionModule, a Trainer and loaders, but got "
                f"{type(lightning_module).__name__}, {type(trainer).__name__} and fit_kwargs={fit_kwargs!r}."
            )
        self.module, self.trainer = lightning_module, trainer
        self.train_dataloaders = train_dataloader if train_dataloaders is None else train_dataloaders
        self.val_dataloaders = val_dataloaders
        self.history: list[dict[str, float]] = []
        """Of the last `fit`, one row of losses and metrics an epoch."""

    def fit(self, model: nn.Module) -> None:
        """Train a plain network in place, as `module` and `trainer` say, and judge it after each epoch."""
        self.history = fit_module(
            self.module, model, self.train_dataloaders, self.val_dataloaders, trainer=self.trainer
        )
        self.trainer.callback_metrics = dict(self.history[-1])


class Classification(Lightning):
    """Train a classifier: the arguments of `ClassificationModule`, of `Lightning` and of `Trainer` in one."""

    def __init__(
        self,
        criterion: type[nn.Module] = nn.CrossEntropyLoss,
        learning_rate: float = 0.001,
        weight_decay: float = 0.0,
        optimizer: Callable[..., Optimizer] = Adam,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        export_onnx: bool = False,
        train_dataloader: Any = None,
        num_classes: int | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        module = ClassificationModule(criterion, learning_rate, weight_decay, optimizer, export_onnx, num_classes)
        super().__init__(module, Trainer(**trainer_kwargs), train_dataloaders, val_dataloaders, train_dataloader)


class Regression(Lightning):
    """Train a network whose outputs are numbers: as `Classification`, without `num_classes`."""

    def __init__(
        self,
        criterion: type[nn.Module] = nn.MSELoss,
        learning_rate: float = 0.001,
        weight_decay: float = 0.0,
        optimizer: Callable[..., Optimizer] = Adam,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        export_onnx: bool = False,
        train_dataloader: Any = None,
        **trainer_kwargs: Any,
    ) -> None:
        module = RegressionModule(criterion, learning_rate, weight_decay, optimizer, export_onnx)
        super().__init__(module, Trainer(**trainer_kwargs), train_dataloaders, val_dataloaders, train_dataloader)
