"""What a network costs: parameters, and multiply-adds per sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.conv import _ConvNd
from torch.utils.flop_counter import FlopCounterMode

from archgrad.errors import OptionError
from archgrad.nested import tensors_in

__all__ = ["count_multiply_adds", "count_parameters", "count_prediction_parameters", "measured_cost"]


def count_parameters(module: nn.Module) -> int:
    """Return the number of parameters that are trained; one that occurs twice counts once."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def count_multiply_adds(module: nn.Module, input_shape: Sequence[int]) -> int:
    """Return the multiply-adds of one prediction, in evaluation mode.

    Convolutions and matrix products are counted, as the papers do; additions, activations, pools and BatchNorm are not.

    Args:
        module: Takes one tensor; it is left as it is.
        input_shape: Of one sample, without the batch: (C, H, W) for images.

    Returns:
        A whole number; half of what is called FLOPs.

    Raises:
        OptionError: The module cannot take such an input.
    """
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        _predict(module, input_shape)
    return counter.get_total_flops() // 2


def count_prediction_parameters(module: nn.Module, input_shape: Sequence[int]) -> int:
    """Return the number of trained parameters that a prediction depends on.

    An auxiliary head, which only helps to train, does not count; papers leave it out.

    Args:
        module: Takes one tensor; it is left as it is.
        input_shape: Of one sample, without the batch.

    Raises:
        OptionError: The module cannot take such an input.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    with torch.enable_grad():
        total = sum(output.float().sum() for output in tensors_in(_predict(module, input_shape)))
    if not isinstance(total, Tensor) or not total.requires_grad:
        return 0
    gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    used = zip(parameters, gradients, strict=True)
    return sum(parameter.numel() for parameter, gradient in used if gradient is not None)


def measured_cost(module: nn.Module, cost: str, run: Callable[[], Any]) -> int:
    """Return what a module costs for one sample.

    Args:
        module: Whose parameters and layers are counted.
        cost: "multiply-adds", trained "parameters", or "activations": the numbers that convolutions, linear layers and
            attentions return.
        run: Runs it for one sample.
    """
    if cost == "parameters":
        return count_parameters(module)
    returned: list[int] = []
    hooks = []
    if cost == "activations":
        layers = [part for part in module.modules() if isinstance(part, _MULTIPLY)]
        hooks = [part.register_forward_hook(lambda *call: returned.append(_first_numel(call[2]))) for part in layers]
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad(), _evaluating(module):
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return sum(returned) if cost == "activations" else counter.get_total_flops() // 2


_MULTIPLY = (_ConvNd, nn.Linear, nn.MultiheadAttention)


def _first_numel(output: Any) -> int:
    return next(tensors_in(output)).numel()


def _predict(module: nn.Module, input_shape: Sequence[int]) -> Any:
    reference = next(module.parameters(), torch.empty(0))
    sample = torch.zeros((1, *input_shape), dtype=reference.dtype, device=reference.device)
    try:
        with _evaluating(module):
            return module(sample)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise OptionError(
            f"The network {type(module).__name__} cannot take one input of shape {tuple(input_shape)}: {error}. "
            f"Give the shape of one sample, without the batch."
        ) from error


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    training = [part for part in module.modules() if part.training]
    whole = torch.backends.mha.get_fastpath_enabled()  # attention in one step, of which nothing can be counted
    module.eval()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):  # of its other forms, products are counted on some devices only
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(whole)
        for part in training:
            part.training = True
