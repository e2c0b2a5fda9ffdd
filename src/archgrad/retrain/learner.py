"""One network being trained: the step, and the state that it goes on from."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from archgrad.batches import count, cut, prepare
from archgrad.buffers import copied_buffers, set_buffers
from archgrad.dependence import depends_on_inputs
from archgrad.errors import OptionError, RunError
from archgrad.losses import Loss, joined_parts, loss_of_parts
from archgrad.operations import DropPath
from archgrad.retrain.recipe import Recipe
from archgrad.retrain.totals import NonfiniteStep, Totals
from archgrad.runs import count_in, load_optimizer

__all__ = ["Learner"]

_MOST_UNREAD_STEPS = 20


class Learner:
    """Trains a network in place, batch by batch.

    Args:
        network: Returns logits (B, classes); in training mode it may return (logits, auxiliary logits). It is moved to
            the device and the precision.
        recipe: The options.
        classes: Number of classes.
        device: Where to compute.
        channels_last: Whether images are laid out channels_last, which the network takes.

    Raises:
        OptionError: The network has nothing to train.
    """

    def __init__(
        self, network: nn.Module, recipe: Recipe, *, classes: int, device: torch.device, channels_last: bool
    ) -> None:
        self.recipe = recipe
        self.device = device
        self.totals = Totals()
        self.skipped_steps = 0
        self._classes = classes
        self._channels_last = channels_last
        self.dtype = torch.float64 if recipe.precision == "64" else torch.float32
        self.network = network.to(device, self.dtype)
        self._parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        if not self._parameters:
            raise OptionError(f"The network {type(network).__name__} has no parameters that require a gradient.")
        self._optimizer = _make_optimizer(self._parameters, recipe)
        self._cross_entropy: Loss = partial(F.cross_entropy, label_smoothing=recipe.label_smoothing)
        self._drop_paths = [part for part in network.modules() if isinstance(part, DropPath)]
        # On a GPU reading a value waits for it; a run that stops in any case may learn of the reason some steps later.
        self._reads_each_step = device.type == "cpu" or recipe.on_nonfinite == "skip"

    @property
    def has_drop_path(self) -> bool:
        """Whether the network has paths to drop."""
        return bool(self._drop_paths)

    def start_epoch(self, epoch: int) -> None:
        """Set learning rate and drop path of an epoch, 0-based, and the training mode."""
        for group in self._optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate_in(epoch)
        for drop_path in self._drop_paths:
            drop_path.p = self.recipe.drop_path_in(epoch)
        self.network.train()

    def train_step(self, step: int, inputs: Any, targets: Tensor) -> None:
        """Take one step: gradients, over all processes, clipping, and the optimizer.

        Args:
            step: 0-based within the epoch.
            inputs: A batch.
            targets: (B,), int64.

        Raises:
            NonfiniteStep: The loss or the gradient is not finite, here or (on a GPU) in one of the last steps.
            OptionError: The network does not return what it should.
        """
        self._optimizer.zero_grad(set_to_none=True)
        skips = self.recipe.on_nonfinite == "skip"
        buffers = copied_buffers(self.network) if skips else {}
        part_loss = loss_of_parts(self._cross_entropy, self.recipe.accumulation)
        loss, correct = self._backward(inputs, targets, part_loss)
        used = [parameter for parameter in self._parameters if parameter.grad is not None]
        *gradients, loss = joined_parts([*map(_gradient, used), loss], part_loss, targets)
        for parameter, gradient in zip(used, gradients, strict=True):
            parameter.grad = gradient
        gradient_norm = get_total_norm(gradients)
        if self._reads_each_step and not bool(torch.isfinite(loss) & torch.isfinite(gradient_norm)):
            if not skips:
                raise NonfiniteStep(step, float(loss), float(gradient_norm))
            # One forward pass would leave BatchNorm's running statistics at nan for good.
            set_buffers(self.network, buffers, device=self.device)
            self.totals.skipped += 1
            self.skipped_steps += 1
            return
        if self.recipe.grad_clip:
            clip_grads_with_norm_(used, self.recipe.grad_clip, gradient_norm)
        self._optimizer.step()
        self.totals.add(step, len(targets), loss, correct, gradient_norm)
        if self._reads_each_step or self.totals.unread >= _MOST_UNREAD_STEPS:
            self.totals.read()

    def _backward(self, inputs: Any, targets: Tensor, part_loss: Loss) -> tuple[Tensor, Tensor]:
        """Add up the gradients of a batch's parts; return the sums of their losses (of the main head) and hits."""
        losses, hits = [], []
        for part, part_targets in cut(inputs, targets, self.recipe.accumulation):
            logits, auxiliary_logits = self._split(self._forward(part), len(part_targets))
            loss = part_loss(logits, part_targets)
            objective = loss
            if auxiliary_logits is not None and self.recipe.auxiliary_weight:
                objective = loss + self.recipe.auxiliary_weight * part_loss(auxiliary_logits, part_targets)
            objective.backward()
            losses.append(loss.detach())
            hits.append((logits.detach().argmax(1) == part_targets).sum())
        return torch.stack(losses).sum(), torch.stack(hits).sum()

    def predict(self, inputs: Any) -> Tensor:
        """Return the logits (B, classes) of a batch, in evaluation mode; `start_epoch` returns to training.

        Raises:
            OptionError: The network does not return such logits.
        """
        self.network.eval()
        with torch.no_grad():
            logits, _ = self._split(self._forward(inputs), count(inputs))
        return logits

    def try_out(self, inputs: Any, test_inputs: Any = None) -> None:
        """Predict once, so that a network that does not fit the data is told of before anything is written.

        Args:
            inputs: A batch of at least 2 samples.
            test_inputs: A batch of the test set, if there is one.

        Raises:
            OptionError: The network cannot take such a batch, does not return logits, or returns the same ones
                whatever its inputs are.
        """
        for part, some in (("this data", inputs), ("its test set, though one of the training set", test_inputs)):
            try:
                if some is not None:
                    self.predict(some)
            except OptionError:
                raise
            except (RuntimeError, TypeError, ValueError, IndexError) as error:
                raise OptionError(
                    f"The network {type(self.network).__name__} cannot take a batch of {part}: {error}. "
                    f"Build it for the data's channels and size."
                ) from error
        batch = prepare(inputs, dtype=self.dtype, channels_last=self._channels_last)
        if not depends_on_inputs(self.network, batch):
            raise OptionError(
                f"The network {type(self.network).__name__} gives the same logits for every input, so that there is "
                f"nothing to train: where its choices took candidates that pass nothing on, such as 'none', no path "
                f"from the input to the logits is left. Take another architecture."
            )

    def _forward(self, inputs: Any) -> Any:
        autocast: AbstractContextManager[Any] = nullcontext()
        if self.recipe.precision == "bf16":
            autocast = torch.autocast(self.device.type, torch.bfloat16)
        with autocast:
            return self.network(prepare(inputs, dtype=self.dtype, channels_last=self._channels_last))

    def _split(self, output: Any, samples: int) -> tuple[Tensor, Tensor | None]:
        parts = output if isinstance(output, (tuple, list)) else (output,)
        shapes = [tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__ for part in parts]
        if len(parts) not in (1, 2) or any(shape != (samples, self._classes) for shape in shapes):
            raise OptionError(
                f"The network must return logits of shape ({samples}, {self._classes}), one column a class, or in "
                f"training mode two of them (logits, auxiliary logits), but it returned {shapes}. "
                f"Build it for {self._classes} classes."
            )
        logits = [part.to(self.dtype) for part in parts]  # bfloat16 is too coarse for a loss
        return logits[0], logits[1] if len(logits) == 2 else None

    def weights(self) -> dict[str, Tensor]:
        """Return the network's parameters and buffers by name."""
        return {name: value for name, value in self.network.state_dict().items() if isinstance(value, Tensor)}

    def weights_norm(self) -> float:
        """Return the norm over all trained parameters."""
        return float(get_total_norm([parameter.detach() for parameter in self._parameters]))

    def state(self) -> dict[str, Any]:
        """Return everything that training goes on from, besides the random states."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "skipped_steps": self.skipped_steps,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned.

        Raises:
            RunError: The state is that of another network.
        """
        try:
            self.network.load_state_dict(state["network"])
            load_optimizer(self._optimizer, state["optimizer"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise RunError(
                f"The checkpoint is not one of this network ({error}). Build the network that the run was started with."
            ) from error
        self.skipped_steps = count_in(state, "skipped_steps")


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def _make_optimizer(parameters: list[nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(
        parameters, lr=recipe.learning_rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
