"""Whether a network's outputs depend on its inputs: a candidate that passes nothing on may have cut every path.

A cell knows its graph and never decides so (`archgrad.connection`). Of a user's own forward method nothing is known, so
that the network itself is tried out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from archgrad.architecture import Architecture
from archgrad.calling import run_on
from archgrad.choices import InputChoice, LayerChoice
from archgrad.copying import copied
from archgrad.labels import LabelledChoice
from archgrad.nested import branches, is_structure, map_tensors, rebuilt, tensors_in

__all__ = ["depends_on_inputs", "suspects"]

_ATTEMPTS = 3
_MANY = 5


def depends_on_inputs(network: nn.Module, inputs: Any) -> bool:
    """Return whether a network's outputs change with its inputs.

    Mostly it is enough to run it twice in evaluation mode. Where outputs are equal, copies with other weights are run
    in training mode on `inputs` and on other ones of the same shapes, with the same random draws: outputs that
    depend on no input are then equal to the bit. A gradient of zero settles what differences below the floating-point
    grain would hide.

    Args:
        network: A plain module of any mode; it stays as it is. Random states do, too.
        inputs: A batch that it takes, of at least 2 samples: tensors in any nesting of mappings and sequences.

    Returns:
        False only where every attempt gives equal outputs; True also where there is nothing to vary, or the network
        refuses the other inputs.
    """
    tensors = list(tensors_in(inputs))
    devices = {tensor.device for tensor in tensors if tensor.is_cuda}
    with torch.random.fork_rng(devices=list(devices)), torch.enable_grad():
        torch.manual_seed(0)
        try:
            return _differs(network, inputs) or any(_changes(_perturbed(network), inputs) for _ in range(_ATTEMPTS))
        except Exception:  # a network may refuse inputs of these values with any error, and then nothing is known
            return True


def _changes(network: nn.Module, inputs: Any) -> bool:
    others = _others(inputs)
    if all(map(torch.equal, tensors_in(inputs), tensors_in(others))):
        return True  # nothing can be told of inputs that have but one value
    outputs = []
    leaves: list[Tensor] = []
    for batch in (inputs, others):
        torch.manual_seed(1)
        running = copied(network).train()  # each from the same buffers
        outputs.append(list(tensors_in(run_on(running, map_tensors(batch, lambda tensor: _leaf(tensor, leaves))))))
    pairs = zip(*outputs, strict=False)
    if len(outputs[0]) != len(outputs[1]) or not all(torch.equal(one, other) for one, other in pairs):
        return True
    total = sum((output.sum() for output in outputs[0] if output.requires_grad), start=torch.zeros(()))
    if not total.requires_grad or not leaves:
        return False
    gradients = torch.autograd.grad(total, leaves, allow_unused=True)
    return any(gradient is not None and bool(gradient.any()) for gradient in gradients)


def _differs(network: nn.Module, inputs: Any) -> bool:
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.no_grad():
            outputs = [list(tensors_in(run_on(network, batch))) for batch in (inputs, _others(inputs))]
    finally:
        for module, mode in modes.items():
            module.training = mode
    return not all(torch.equal(one, other) for one, other in zip(*outputs, strict=True))


def _leaf(tensor: Tensor, leaves: list[Tensor]) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    leaves.append(tensor.detach().clone().requires_grad_())
    return leaves[-1] * 1.0  # so that the network may change its input in place


def _perturbed(network: nn.Module) -> nn.Module:
    """A copy whose weights differ a little: a last layer that starts at zero would hide every input."""
    changed = copied(network)
    with torch.no_grad():
        for parameter in changed.parameters():
            if parameter.is_floating_point():
                size = parameter.square().mean().sqrt().clamp(min=0.1)
                parameter.add_(0.1 * size * torch.randn_like(parameter))
    return changed


def _others(inputs: Any) -> Any:
    """Return inputs of the same shapes with other values; where the rows of a packed sequence lie stays as it is."""
    if isinstance(inputs, PackedSequence):  # torch ends the process where these are wrong
        return inputs._replace(data=_other(inputs.data))
    if is_structure(inputs):
        return rebuilt(inputs, [_others(part) for _, part in branches(inputs)])
    return _other(inputs) if isinstance(inputs, Tensor) else inputs


def _other(tensor: Tensor) -> Tensor:
    if tensor.is_floating_point():
        return torch.randn_like(tensor) * 2.0
    if tensor.dtype == torch.bool:
        return tensor.clone()  # a mask, which may not hide everything
    return torch.randint_like(tensor, int(tensor.min()), int(tensor.max()) + 1) if tensor.numel() else tensor


def suspects(choices: Sequence[LabelledChoice], architecture: Architecture) -> str:
    """Return which choices may have cut an architecture's network, as text: "'body' = none, 'join' = inputs 0".

    Args:
        choices: Of the space.
        architecture: One of the space, whose network does not depend on its inputs.
    """
    taken: dict[str, str] = {}
    nothing: dict[str, str] = {}
    for entry in choices:
        decision: Any = architecture.choices.get(entry.label)
        if isinstance(entry.choice, LayerChoice) and isinstance(decision, str) and decision in entry.choice.names:
            taken[entry.label] = f"'{entry.label}' = {decision}"
            if getattr(entry.choice[decision], "passes_nothing", False) or decision in ("none", "zero"):
                nothing[entry.label] = taken[entry.label]
        elif isinstance(entry.choice, InputChoice) and decision is not None:
            taken[entry.label] = f"'{entry.label}' = inputs {', '.join(map(str, decision))}"
    named = list((nothing or taken).values())
    rest = len(named) - _MANY
    return ", ".join(named[:_MANY]) + (f" and {rest} more" if rest > 0 else "")
