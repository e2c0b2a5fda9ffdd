"""The forward pass of a derived cell: on the CPU, what the kept operations of a state share is computed once."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from archgrad.cell import DerivedCell
from archgrad.fast.normalised import normalised
from archgrad.fast.recognise import is_projection
from archgrad.fast.states import State
from archgrad.fast.sums import joined

__all__ = ["evaluate_derived"]


def evaluate_derived(cell: DerivedCell, states: Sequence[Tensor | None]) -> Tensor:
    """Return what the cell's plain forward pass returns.

    Args:
        cell: A derived cell.
        states: Its inputs, (B, C, H, W) each; None for those that it does not use.
    """
    leaving: list[list[nn.Module]] = [[] for _ in range(cell.n_inputs + len(cell.nodes))]
    for pairs in cell.nodes:
        for key, source in pairs:
            leaving[source].append(cell.operations[key])
    every = [None if x is None else State(x, kept) for x, kept in zip(states, leaving, strict=False)]
    for pairs in cell.nodes:
        total: Tensor | None = None
        for key, source in pairs:
            operation, state = cell.operations[key], every[source]
            assert state is not None
            value = _output(operation, state)
            if cell.drop_path is not None and not isinstance(operation, nn.Identity):
                value = cell.drop_path(value)
            total = value if total is None else total + value
        every.append(None if total is None else State(total, leaving[len(every)]))
    outputs = [state.x for node in cell.concat if (state := every[node]) is not None]
    return outputs[0] if len(outputs) == 1 else joined(outputs)


def _output(operation: nn.Module, state: State) -> Tensor:
    if state.x.device.type != "cpu" or not state.knows(operation):
        return operation(state.x)
    if isinstance(operation, nn.MaxPool2d | nn.AvgPool2d):
        return state.pooled(operation)
    if is_projection(operation):
        return normalised([state.projected(operation)], relu=False)[0]
    return operation(state.x)
