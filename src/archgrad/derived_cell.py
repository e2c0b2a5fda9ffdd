"""What is left of a cell in a derived network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from archgrad.isolation import run_isolated

__all__ = ["DerivedCell"]


class DerivedCell(nn.Module):
    """The kept edges of a cell, and nothing that its output does not use.

    Args:
        operations: The kept operations, node by node.
        sources: For each node, the source of each of its operations; none where the node has no edges.
        concat: The nodes that are joined along the channels; a single one is the output itself. Each has edges.
        n_inputs: Number of input states.
        drop_path: Applied to the output of each operation that is not an identity.
    """

    def __init__(
        self,
        operations: Sequence[nn.Module],
        sources: Sequence[Sequence[int]],
        concat: Sequence[int],
        *,
        n_inputs: int,
        drop_path: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.n_inputs = n_inputs
        self.concat = tuple(concat)
        self.drop_path = drop_path
        used = _reaching(sources, concat, n_inputs)
        self.used_inputs = tuple(i for i in range(n_inputs) if i in used)
        self.nodes: list[list[tuple[str, int]]] = []  # per node: (key in operations, source)
        kept: dict[str, nn.Module] = {}
        entry = 0
        for node, node_sources in enumerate(sources, start=n_inputs):
            pairs = []
            for source in node_sources:
                if node in used:
                    kept[str(entry)] = operations[entry]
                    pairs.append((str(entry), source))
                entry += 1
            self.nodes.append(pairs)
        self.n_entries = entry  # of the decision, dropped ones included
        self.operations = nn.ModuleDict(kept)
        self.evaluator: Callable[[DerivedCell, list[Tensor | None]], Tensor] | None = None

    def forward(self, states: Sequence[Tensor | None]) -> Tensor:
        """Return the cell's output; a state that is not among `used_inputs` may be None."""
        output = self.edge_by_edge(states) if self.evaluator is None else self.evaluator(self, list(states))
        # Through skip connections alone an input would go out itself, and who works on the output in place change it.
        return output.clone() if any(output is state for state in states) else output

    def edge_by_edge(self, states: Sequence[Tensor | None]) -> Tensor:
        """Return what `forward` does, every operation as it is written."""
        every: list[Tensor | None] = list(states)
        for pairs in self.nodes:
            total: Tensor | None = None
            for key, source in pairs:
                operation = self.operations[key]
                value = run_isolated(operation, every[source])
                if self.drop_path is not None and not isinstance(operation, nn.Identity):
                    value = self.drop_path(value)
                total = value if total is None else total + value
            every.append(total)
        joined = [cast(Tensor, every[node]) for node in self.concat]
        return joined[0] if len(joined) == 1 else torch.cat(joined, dim=1)


def _reaching(sources: Sequence[Sequence[int]], concat: Sequence[int], n_inputs: int) -> set[int]:
    """The states that the joined nodes depend on, themselves included."""
    used: set[int] = set()
    todo = list(concat)
    while todo:
        state = todo.pop()
        if state not in used:
            used.add(state)
            if state >= n_inputs:
                todo.extend(sources[state - n_inputs])
    return used
