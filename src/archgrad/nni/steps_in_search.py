"""A search by the steps of a script's own module: its training step is the loss, of outputs that the supernet gave."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from archgrad.copying import copied
from archgrad.engine import EpochState
from archgrad.errors import OptionError
from archgrad.nni.fitting import call_hook, configured, loss_of
from archgrad.nni.lightning_modules import HOOKS, LightningModule

__all__ = ["StepsInSearch"]

_OF_EPOCHS = (
    "on_fit_start",
    "on_train_start",
    "on_train_epoch_start",
    "on_train_epoch_end",
    "on_train_end",
    "on_fit_end",
)


class StepsInSearch:
    """Loss, optimizer and hooks of a module, as `archgrad.search` takes them.

    The training step is called with what stands for the inputs of a batch, and for its number, in their place; all
    that it can do with the former is to hand it to the network, which then gives the outputs of the supernet. The
    optimizer and its scheduler are the module's, over the weights of the supernet. Hooks at the beginning and end of
    epochs are called; what steps log is not kept.

    Args:
        module: Of a script's own class.
        trainer: Of the evaluator.
        space: A model with open choices; stays as it is.

    Raises:
        OptionError: The module has hooks of batches or of validation.
    """

    def __init__(self, module: LightningModule, trainer: Any, space: nn.Module) -> None:
        uncalled = [hook for hook in HOOKS if hook not in _OF_EPOCHS and hasattr(module, hook)]
        if uncalled:
            raise OptionError(
                f"{type(module).__name__} has {uncalled[0]}, which a search does not call. Called are training_step, "
                f"configure_optimizers and {', '.join(_OF_EPOCHS)}; leave it out of the module of the search."
            )
        self._module, self._trainer = module, trainer
        self.space = copied(space)
        """What is to be searched, as the first epoch's hooks have left it."""
        module.current_epoch, module.trainer = 0, trainer
        module.set_model(self.space)
        module.train()
        trainer.optimizers = [configured(module.configure_optimizers())[0]]
        for hook in ("on_fit_start", "on_train_start", "on_train_epoch_start"):
            call_hook(module, hook)

    def optimizer_of(self, weights: Any) -> Optimizer:
        """Return the module's optimizer of the weights of the supernet."""
        self._module.weights = list(weights)
        optimizer, self._scheduler, each_step = configured(self._module.configure_optimizers())
        if each_step:
            raise OptionError("A search steps a scheduler after each epoch. Leave out interval='step'.")
        self._trainer.optimizers = [optimizer]
        return optimizer

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """Return the loss of the module's training step."""
        module, batch = self._module, _NotTold()
        module.outputs_of_batch = batch, outputs
        try:
            loss = loss_of(module.training_step((batch, targets), batch))  # type: ignore[arg-type]
        finally:
            module.outputs_of_batch, module.logged = None, {}
        if loss is None:
            raise OptionError(f"training_step of {type(module).__name__} must return a loss, but returned nothing.")
        return loss

    def after_epoch(self, state: EpochState) -> None:
        """Call the hooks between two epochs, and step the scheduler."""
        module = self._module
        module.set_model(state.network.network)  # type: ignore[arg-type]
        call_hook(module, "on_train_epoch_end")
        if self._scheduler is not None:
            self._scheduler.step()
        if state.epoch + 1 < state.epochs:
            module.current_epoch = state.epoch + 1
            call_hook(module, "on_train_epoch_start")

    def end(self) -> None:
        """Call the last hooks, and let the module train other networks."""
        for hook in ("on_train_end", "on_fit_end"):
            call_hook(self._module, hook)
        self._module.weights = None


class _NotTold:
    """Stands for what a search does not hand to a training step."""

    def __getattr__(self, name: str) -> Any:
        raise OptionError(
            f"In a search, training_step can give the inputs of a batch to the network, and nothing else: it asks for "
            f"their {name}. Compute the loss from outputs and targets."
        )
