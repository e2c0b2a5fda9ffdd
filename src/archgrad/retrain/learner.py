"""One network being trained: the step, and the state that it goes on from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.utils._pytree import tree_leaves

from archgrad.batches import count, cut, prepare
from archgrad.buffers import copied_buffers, set_buffers
from archgrad.calling import run_on
from archgrad.dependence import depends_on_inputs
from archgrad.engine.path_choice import Results, Trial
from archgrad.engine.precision import autocast, check_device
from archgrad.engine.training_options import Precision
from archgrad.errors import ArchgradError, OptionError, RunError
from archgrad.fast import FastPath, in_order_of_contiguous
from archgrad.input_checks import refusals_explained
from archgrad.loss_checks import check_targets
from archgrad.loss_scale import LossScale
from archgrad.losses import Loss, joined_parts, loss_of_parts
from archgrad.nested import map_tensors
from archgrad.operations import DropPath
from archgrad.retrain.recipe import Recipe
from archgrad.retrain.totals import NonfiniteStep, Totals
from archgrad.runs import count_in, load_optimizer
from archgrad.tasks import Measure, Task, loss_on

__all__ = ["Learner"]

_MOST_UNREAD_STEPS = 20


class Learner:
    """Trains a network in place, batch by batch.

    Args:
        network: Returns what the task takes, such as logits (B, classes); in training mode it may return (outputs,
            outputs of an auxiliary head). It is moved to the device and the precision.
        recipe: The options.
        task: What it learns, fitted to the data.
        device: Where to compute.
        channels_last: Whether images are laid out channels_last, which the network takes, unless its path is "plain".
        path: The path that the network runs by; None where it is not to be chosen.

    Raises:
        OptionError: The network has nothing to train, or label smoothing does not go with the loss.
    """

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        *,
        task: Task,
        device: torch.device,
        channels_last: bool,
        path: FastPath | None = None,
    ) -> None:
        self.recipe = recipe
        self.device = device
        self.task = task
        self.totals, self.measure = Totals(), Measure(task)
        self.skipped_steps = 0
        self._channels_last, self.path = channels_last, path
        self._precision: Precision = recipe.precision
        self.dtype = torch.float64 if recipe.precision == "64" else torch.float32
        self.network = network.to(device, self.dtype)
        self._parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        if not self._parameters:
            raise OptionError(f"The network {type(network).__name__} has no parameters that require a gradient.")
        self._optimizer = _make_optimizer(self._parameters, recipe)
        self.loss: Loss = loss_on(task.loss, device, self.dtype)
        self._training_loss = loss_on(task.smoothed(recipe.label_smoothing), device, self.dtype)
        self._drop_paths = [part for part in network.modules() if isinstance(part, DropPath)]
        # On a GPU reading a value waits for it; a run that stops in any case may learn of the reason some steps later.
        self._scale = LossScale(enabled=recipe.precision == "fp16")
        self._reads_each_step = device.type == "cpu" or recipe.on_nonfinite == "skip" or self._scale.enabled
        check_device(device, recipe.precision)

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

    def train_step(self, step: int, inputs: Any, targets: Any) -> None:
        """Take one step: gradients, over all processes, clipping, and the optimizer.

        Args:
            step: 0-based within the epoch.
            inputs: A batch.
            targets: (B, ...), or `archgrad.batches.WeightedTargets`.

        Raises:
            NonfiniteStep: The loss or the gradient is not finite, here or (on a GPU) in one of the last steps.
            OptionError: The network does not return what it should.
        """
        skips = self.recipe.on_nonfinite == "skip"
        buffers = copied_buffers(self.network) if skips or self._scale.enabled else {}
        part_loss = loss_of_parts(self._training_loss, self.recipe.accumulation)
        self._optimizer.zero_grad(set_to_none=True)
        loss, seen = self._backward(inputs, targets, part_loss)
        used = [parameter for parameter in self._parameters if parameter.grad is not None]
        own = [_gradient(parameter, self._scale.value) for parameter in used]
        *gradients, loss = joined_parts([*own, loss], part_loss, targets)
        for parameter, gradient in zip(used, gradients, strict=True):
            parameter.grad = gradient
        gradient_norm = get_total_norm(gradients)
        if self._reads_each_step and not bool(torch.isfinite(loss) & torch.isfinite(gradient_norm)):
            again = bool(torch.isfinite(loss)) and self._scale.can_fall()  # the loss itself is not scaled
            if not (again or skips):
                raise NonfiniteStep(step, float(loss), float(gradient_norm))
            # One forward pass would leave BatchNorm's running statistics at nan for good.
            set_buffers(self.network, buffers, device=self.device)
            if again:
                self.train_step(step, inputs, targets)  # with the loss scaled by less; 16 times at most
                return
            self.totals.skipped += 1
            self.skipped_steps += 1
            return
        if self.recipe.grad_clip:
            clip_grads_with_norm_(used, self.recipe.grad_clip, gradient_norm)
        self._optimizer.step()
        self._scale.step_taken()
        self.totals.add(step, count(targets), loss, gradient_norm)
        for outputs, part_targets in seen:
            self.measure.add(outputs, part_targets)
        if self._reads_each_step or self.totals.unread >= _MOST_UNREAD_STEPS:
            self.totals.read()

    def trial(self, path: FastPath, inputs: Any, targets: Any) -> Trial:
        """Return a step that any path can do, and that updates nothing; arguments as of `train_step`."""
        part_loss = loss_of_parts(self._training_loss, self.recipe.accumulation)

        def step(precision: Precision = self.recipe.precision) -> tuple[Tensor, list[tuple[Any, Any]]]:
            scale, self._scale, self._precision = self._scale, LossScale(enabled=False), precision
            self._optimizer.zero_grad(set_to_none=True)
            try:
                return self._backward(inputs, targets, part_loss)
            finally:
                self._scale, self._precision = scale, self.recipe.precision

        def results(precision: Precision) -> Results:
            loss, seen = step(precision)
            return {
                "losses": [loss],
                "outputs": tree_leaves([outputs for outputs, _ in seen]),
                "gradients": [parameter.grad for parameter in self._parameters],
                "buffers": list(self.network.buffers()),
            }

        return Trial(
            network=self.network,
            path=path,
            device=self.device,
            precision=self.recipe.precision,
            results=results,
            step=step,
        )

    def _backward(self, inputs: Any, targets: Any, part_loss: Loss) -> tuple[Tensor, list[tuple[Any, Any]]]:
        """Add up the gradients of a batch's parts; return the sum of their losses (of the main head), and outputs."""
        losses, seen = [], []
        for part, part_targets in cut(inputs, targets, self.recipe.accumulation):
            outputs, auxiliary = self._split(self._forward(part), count(part_targets))
            with _pairs_explained(pair=auxiliary is not None):
                loss = part_loss(outputs, part_targets)
            objective = loss
            if auxiliary is not None and self.recipe.auxiliary_weight:
                objective = loss + self.recipe.auxiliary_weight * part_loss(auxiliary, part_targets)
            (objective if self._scale.value == 1.0 else objective * self._scale.value).backward()
            losses.append(loss.detach())
            seen.append((map_tensors(outputs, Tensor.detach), part_targets))
        return torch.stack(losses).sum(), seen

    def predict(self, inputs: Any) -> Any:
        """Return the outputs of a batch, in evaluation mode; `start_epoch` returns to training.

        Raises:
            OptionError: The network does not return such outputs.
        """
        self.network.eval()
        with torch.no_grad():
            outputs, _ = self._split(self._forward(inputs), count(inputs))
        return outputs

    def try_out(self, inputs: Any, targets: Tensor) -> None:
        """Predict once, so that a network that does not fit the data is told of before anything is written.

        Args:
            inputs: A batch of at least 2 samples.
            targets: (N, ...), of all training samples.

        Raises:
            OptionError: The network cannot take such a batch, does not return what the task takes, or returns the same
                whatever its inputs are.
        """
        batch = self._prepared(inputs)
        with refusals_explained(self.network, batch), torch.no_grad():
            self.network.eval()
            output = self._forward(inputs)
            head = output[0] if isinstance(output, (tuple, list)) and output else output
            if self.task.shows == "classes" and int(targets.min()) > 0 and isinstance(head, Tensor) and head.dim() == 2:
                check_targets(self._training_loss, head, targets)  # perhaps they are numbered from 1 on
            self._split(output, count(inputs))
        if not depends_on_inputs(self.network, batch):
            raise OptionError(
                f"The network {type(self.network).__name__} gives the same outputs for every input, so that there is "
                f"nothing to train: where its choices took candidates that pass nothing on, such as 'none', no path "
                f"from the input to the outputs is left. Take another architecture."
            )

    def _forward(self, inputs: Any) -> Any:
        in_order = in_order_of_contiguous(self._channels_last and not self._is_plain)
        with autocast(self.device, self._precision), in_order:
            return run_on(self.network, self._prepared(inputs))

    @property
    def _is_plain(self) -> bool:
        return self.path is not None and self.path.present == "plain"

    def _prepared(self, inputs: Any) -> Any:
        if self._channels_last and self._is_plain:
            return map_tensors(prepare(inputs, dtype=self.dtype, channels_last=False), Tensor.contiguous)
        return prepare(inputs, dtype=self.dtype, channels_last=self._channels_last)

    def _split(self, output: Any, samples: int) -> tuple[Any, Any]:
        """Return the outputs, and those of an auxiliary head or None."""
        outputs, auxiliary = self.task.heads(output, samples)
        # half precision is too coarse for a loss
        outputs = map_tensors(outputs, self._floating)
        return outputs, None if auxiliary is None else map_tensors(auxiliary, self._floating)

    def _floating(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor

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
            "loss_scale": self._scale.state_dict(),
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
        self._scale.load_state_dict(state.get("loss_scale", {}))  # earlier versions had none


@contextmanager
def _pairs_explained(*, pair: bool) -> Iterator[None]:
    """Say, where the loss of one part of a pair fails, that it may have been meant for both."""
    try:
        yield
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        if not pair or isinstance(error, ArchgradError | torch.OutOfMemoryError):
            raise
        raise OptionError(
            f"The network returned a pair, whose second part is taken for the outputs of an auxiliary head, and the "
            f"loss cannot take the first alone: {error}. If it takes both, give a Task with auxiliary=False."
        ) from error


def _gradient(parameter: nn.Parameter, scale: float) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad if scale == 1.0 else parameter.grad / scale


def _make_optimizer(parameters: list[nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(
        parameters, lr=recipe.learning_rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
