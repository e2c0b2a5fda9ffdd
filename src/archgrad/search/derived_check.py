"""A first look at a space with open numbers: whether a network that is derived computes what the supernet does for it.

A narrow layer reads the channels that it has, and has zeros in the others. Code around it that knows nothing of this
computes something else once the network is derived: a mean over channels, or two tensors of `width` channels that are
joined and read as one block of `2 * width`. A search would then compare other networks than those that it gives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from archgrad.architecture import Architecture
from archgrad.calling import run_on
from archgrad.choices import LayerChoice, Mixture
from archgrad.derive import derive
from archgrad.discretize import decide
from archgrad.engine.no_trace import no_trace
from archgrad.json_text import shown
from archgrad.nested import tensors_in
from archgrad.supernet import Supernet
from archgrad.valued import ValuedModule
from archgrad.values import ValueChoice

__all__ = ["other_network_warning"]

_TOLERANCE = 1e-3
"""Of the largest output; float32 computes a narrow layer in another order."""


def other_network_warning(supernet: Supernet, first_inputs: Callable[[], Any]) -> str | None:
    """Return a warning if the network that is derived at the smallest values is another than the supernet at these.

    Args:
        supernet: On its device; stays as it is.
        first_inputs: Returns a batch that it takes, of at least 2 samples; called where there is something to look at.

    Returns:
        None if all is well, or where nothing can be told: of spaces without open numbers, with cells or input choices,
        or of networks that compute something else each time.
    """
    kinds = {type(entry.choice) for entry in supernet.choices}
    open_numbers = any(isinstance(module, ValuedModule) for module in supernet.network.modules())
    if not open_numbers or not kinds <= {ValueChoice, LayerChoice} or supernet.always_on or supernet.edge_weights:
        return None
    places = {entry.label: _smallest(entry.choice) for entry in supernet.choices}
    scores = {label: [float(k == places[label]) for k in range(len(row.names))] for label, row in supernet.rows.items()}
    decisions = decide(supernet.network, supernet.choices, scores)
    said = ", ".join(f"{label}={shown(decision)}" for label, decision in decisions.items())
    alpha, inputs = next(iter(supernet.alphas.values())), first_inputs()
    mixtures = {label: Mixture(alpha.new_tensor([row]), (places[label],)) for label, row in scores.items()}
    modes = {module: module.training for module in supernet.modules()}
    supernet.eval()
    try:
        with no_trace(supernet, alpha.device, supernet.generator), torch.no_grad():
            of_supernet = list(tensors_in(supernet.forward_at(mixtures, inputs)))
            try:
                plain = derive(supernet, Architecture(decisions), keep_weights=True).eval()
                first, second = (list(tensors_in(run_on(plain, inputs))) for _ in range(2))
            except Exception as error:  # a network refuses what does not fit with nearly anything
                return f"The network that is derived with {said} cannot take the data: {error}. {_REMEDY}"
    finally:
        for module, mode in modes.items():
            module.training = mode
    if not _alike(first, second) or _alike(of_supernet, first):
        return None
    return (
        f"The network that is derived with {said} computes something else than the space does with these values, so "
        f"that a search compares other networks than it gives. {_REMEDY}"
    )


_REMEDY = (
    "Channels of tensors that are concatenated, or split, are a sum (width + width in the place of 2 * width), and "
    "what reads all channels, such as a mean or a softmax over them, must be left to layers of archgrad.nn."
)


def _smallest(choice: nn.Module) -> int:
    return choice.values.index(min(choice.values)) if isinstance(choice, ValueChoice) else 0


def _alike(ones: list[Tensor], others: list[Tensor]) -> bool:
    if [x.shape for x in ones] != [x.shape for x in others]:
        return False
    pairs = [(a.double(), b.double()) for a, b in zip(ones, others, strict=True) if a.numel()]
    return all(float((a - b).abs().max()) <= _TOLERANCE * max(1.0, float(b.abs().max())) for a, b in pairs)
