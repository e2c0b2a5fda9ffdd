"""The forward pass of a derived cell: as one program, or with what the operations of a state share computed once."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import cast

from torch import Tensor, nn

from archgrad.derived_cell import DerivedCell
from archgrad.exactness import calls_are_watched
from archgrad.fast import derived_program, native
from archgrad.fast.branches import Branch
from archgrad.fast.lowering import are_ordinary, is_as_defined, kind_of_pass, readable, sharing_nothing
from archgrad.fast.memory_layout import as_written, is_channels_last, with_gradient_as_written
from archgrad.fast.states import SharedFeatures
from archgrad.fast.sums import joined
from archgrad.fast.unchanged import StructureCache
from archgrad.isolation import run_isolated
from archgrad.operations import DropPath

__all__ = ["DerivedEvaluator"]


class DerivedEvaluator:
    """The forward pass of one derived cell, with what it found out about its operations, as long as they stay so.

    Args:
        kernels: Whether the compiled kernels may compute them.
    """

    def __init__(self, *, kernels: bool) -> None:
        self._kept, self._kernels = StructureCache(), kernels

    def __call__(self, cell: DerivedCell, states: Sequence[Tensor | None]) -> Tensor:
        """Return what the cell's plain forward pass returns, in the memory format of the first input that it uses.

        Args:
            cell: A derived cell, always the same.
            states: Its inputs, (B, C, H, W) each; None for those that it does not use.
        """
        given = [x for x in states if x is not None]
        if not given or calls_are_watched() or not is_as_defined(cell, DerivedCell) or not are_ordinary(given):
            return cell.edge_by_edge(states)
        with native.allowed(self._kernels):
            return self._evaluate(cell, states, given)

    def _evaluate(self, cell: DerivedCell, states: Sequence[Tensor | None], given: Sequence[Tensor]) -> Tensor:
        channels_last = is_channels_last(given[0])
        self._kept.look(cell)
        alone = self._kept.find("alone", lambda: sharing_nothing(list(cell.operations.values())))
        whole = derived_program.evaluate(cell, states, alone, self._kept)
        if whole is not None:
            return as_written(whole, channels_last=channels_last)
        found: dict[Hashable, Branch | None] = self._kept.find(kind_of_pass(given), dict)

        def known(operation: nn.Module, x: Tensor) -> Branch | None:
            key = (id(operation), x.shape, x.dtype, x.device)
            if key not in found:
                found[key] = readable(operation, x)
            return found[key]

        leaving: list[list[nn.Module]] = [[] for _ in range(cell.n_inputs + len(cell.nodes))]
        for pairs in cell.nodes:
            for key, source in pairs:
                if id(cell.operations[key]) in alone:
                    leaving[source].append(cell.operations[key])

        def state_of(x: Tensor, number: int) -> SharedFeatures:
            branches = [known(operation, x) for operation in leaving[number]] if x.dim() == 4 else []
            return SharedFeatures(x, [branch for branch in branches if branch is not None], channels_last=channels_last)

        every = [None if x is None else state_of(x, number) for number, x in enumerate(states)]
        for pairs in cell.nodes:
            total: Tensor | None = None
            for key, source in pairs:
                operation, state = cell.operations[key], every[source]
                value = _output(operation, cast(SharedFeatures, state))
                if cell.drop_path is not None and not isinstance(operation, nn.Identity):
                    if type(cell.drop_path) is not DropPath:
                        value = as_written(value, channels_last=channels_last)
                    value = cell.drop_path(value)
                total = value if total is None else total + value
            every.append(None if total is None else state_of(total, len(every)))
        outputs = [state.x for node in cell.concat if (state := every[node]) is not None]
        return as_written(outputs[0] if len(outputs) == 1 else joined(outputs), channels_last=channels_last)


def _output(operation: nn.Module, state: SharedFeatures) -> Tensor:
    branch = state.branch_of(operation)
    if branch is None:
        y = run_isolated(operation, state.given)
        return with_gradient_as_written(y, channels_last=is_channels_last(state.given))
    if branch.form == "pool":
        return state.pooled(cast(nn.Module, branch.layers[0]))
    output = state.output(branch)
    if output is not None:
        return output
    return operation(state.given if branch.form == "chain" else state.x)
