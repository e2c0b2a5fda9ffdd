"""The recurrent cell of DARTS: nodes with a highway gate, one weight matrix a node, an activation on every edge.

Source: Liu et al. 2019, sections 2.1, 2.4 and 3.2, and their code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from archgrad.cell import Cell
from archgrad.choices import LayerChoice
from archgrad.derived_cell import DerivedCell
from archgrad.exactness import is_hooked
from archgrad.mixture import Mixture

__all__ = ["ACTIVATIONS", "DerivedRecurrentCell", "GatedActivation", "RecurrentCell"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor] | None] = {
    "none": None,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "identity": lambda x: x,
}
"""What the edges choose between, in the authors' order; None passes nothing on."""


class GatedActivation(nn.Module):
    """s + c * (f(h) - s): a state, moved by a gate towards an activation; zeros for "none"."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.passes_nothing = name, ACTIVATIONS[name] is None

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        return self.name

    def forward(self, state: Tensor, gate: Tensor, hidden: Tensor) -> Tensor:
        """Return (..., H) of three such tensors: s, c from 0 to 1, and h."""
        activation = ACTIVATIONS[self.name]
        return torch.zeros_like(state) if activation is None else state + gate * (activation(hidden) - state)


class RecurrentCell(Cell):
    """A recurrent layer; in each of its steps every node takes one earlier state through one activation.

    A step begins with s_0 = h + c_0 * (h_0 - h), where h is the output of the step before, 0 at first, and c_0, behind
    a sigmoid, and h_0, behind a tanh, are the halves of W_0 [x, h]. Node i is s_i = sum over j < i of the mixture on
    edge j -> i of s_j + c * (f(h) - s_j), where c, behind a sigmoid, and h are the halves of W_i s_j: all edges that
    enter a node share its weights. The output is the mean of the nodes. "none" keeps its share of the mixture and is
    never derived.

    Args:
        n_nodes: At least 1.
        hidden_size: H, of inputs and outputs, at least 1.
        normalise: Put every state, s_0 too, through a BatchNorm without affine part, as the authors do in the search.
        label: See `Choice`.
    """

    def __init__(self, n_nodes: int, hidden_size: int, *, normalise: bool, label: str | None = None) -> None:
        super().__init__(n_nodes, {name: _on_edges(name) for name in ACTIVATIONS}, n_inputs=1, n_kept=1, label=label)
        states = range(n_nodes + 1)
        self.state_weights = nn.ModuleDict(
            {str(i): nn.Linear(hidden_size if i else 2 * hidden_size, 2 * hidden_size, bias=False) for i in states}
        )
        self.norms = nn.ModuleDict(
            {str(i): nn.BatchNorm1d(hidden_size, affine=False) if normalise else nn.Identity() for i in states}
        )

    def forward(self, states: Sequence[Tensor], mask: Tensor | None = None) -> Tensor:
        """Return the outputs of all steps, (B, T, H).

        Args:
            states: The inputs x alone, (B, T, H).
            mask: (B, H), by which W_0 and the nodes' weights find states multiplied: that of a dropout.
        """
        edges = [cast(LayerChoice, edge) for edge in self.edges]
        places = [slice(node * (node - 1) // 2, node * (node + 1) // 2) for node in self._nodes()]
        mixtures = [edge.mixture for edge in edges]
        shares = None
        if self.evaluator is not None and all(map(_is_plain, edges, mixtures)):  # the fast way
            shares = [_shares(mixtures[place]) for place in places]

        def step(first: Tensor) -> Tensor:
            every = first[None]
            for node, place in zip(self._nodes(), places, strict=True):
                gate, hidden = _gate_and_hidden(self.state_weights[str(node)], every, mask)
                if shares is not None:
                    mixed = _mixed(every, gate, hidden, shares[node - 1])
                else:
                    mixed = _total([edge(*each) for edge, *each in zip(edges[place], every, gate, hidden, strict=True)])
                every = torch.cat([every, self.norms[str(node)](mixed)[None]])
            return every[1:].mean(0)

        return _over_steps(states[0], mask, self.state_weights, self.norms, step)

    def _derived(
        self, operations: Sequence[nn.Module], sources: Sequence[Sequence[int]], concat: Sequence[int]
    ) -> DerivedCell:
        return DerivedRecurrentCell(operations, sources, concat, weights=self.state_weights, norms=self.norms)


class DerivedRecurrentCell(DerivedCell):
    """What is left of a recurrent cell in a derived network.

    Args:
        operations: As of `DerivedCell`.
        sources: As of `DerivedCell`.
        concat: The nodes whose mean is the output.
        weights: Of every state of the cell that was searched, by its number; those of nodes that the output does not
            use are left out.
        norms: Of every state, as `weights`.
    """

    def __init__(
        self,
        operations: Sequence[nn.Module],
        sources: Sequence[Sequence[int]],
        concat: Sequence[int],
        *,
        weights: nn.ModuleDict,
        norms: nn.ModuleDict,
    ) -> None:
        super().__init__(operations, sources, concat, n_inputs=1)
        used = ["0", *(str(node) for node, pairs in enumerate(self.nodes, start=1) if pairs)]
        self.state_weights = nn.ModuleDict({state: weights[state] for state in used})
        self.norms = nn.ModuleDict({state: norms[state] for state in used})

    def forward(self, states: Sequence[Tensor | None], mask: Tensor | None = None) -> Tensor:
        """Return the outputs of all steps, (B, T, H); arguments as of `RecurrentCell`."""

        def step(first: Tensor) -> Tensor:
            every = {0: first}
            for node, pairs in enumerate(self.nodes, start=1):
                parts = []
                for key, source in pairs:
                    gate, hidden = _gate_and_hidden(self.state_weights[str(node)], every[source], mask)
                    parts.append(self.operations[key](every[source], gate, hidden))
                if parts:
                    every[node] = self.norms[str(node)](_total(parts))
            return torch.stack([every[node] for node in self.concat]).mean(0)

        return _over_steps(cast(Tensor, states[0]), mask, self.state_weights, self.norms, step)


def _over_steps(
    inputs: Tensor, mask: Tensor | None, weights: nn.ModuleDict, norms: nn.ModuleDict, step: Callable[[Tensor], Tensor]
) -> Tensor:
    """Return the outputs (B, T, H) of a step, which makes one of s_0 (B, H), on inputs (B, T, H)."""
    h = torch.zeros_like(inputs[:, 0])
    outputs = []
    for x in inputs.unbind(1):
        gate, hidden = _gate_and_hidden(weights["0"], torch.cat([x, h if mask is None else h * mask], 1), None)
        h = step(norms["0"](h + gate * (torch.tanh(hidden) - h)))
        outputs.append(h)
    return torch.stack(outputs, 1)


def _gate_and_hidden(weight: nn.Module, states: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return c and h, the halves of what weights make of states (..., H), the first behind a sigmoid."""
    gate, hidden = weight(states if mask is None else states * mask).chunk(2, dim=-1)
    return torch.sigmoid(gate), hidden


def _on_edges(name: str) -> Callable[[int, int], nn.Module]:
    return lambda source, node: GatedActivation(name)


def _is_plain(edge: LayerChoice, mixture: Mixture) -> bool:
    """Whether an edge mixes the activations alone, all of them, and nothing watches it."""
    parts = edge.candidates
    alone = len(mixture.active) == len(parts) == len(ACTIVATIONS) and not is_hooked(edge)
    return alone and all(type(part) is GatedActivation and not is_hooked(part) for part in parts)


def _shares(mixtures: Sequence[Mixture]) -> Mapping[str, Tensor]:
    """Return activation -> its weight on each of n edges, (n, 1, 1), and "" -> the sum of these."""
    weights = torch.stack([mixture.weights for mixture in mixtures], 1)[:, :, None, None]
    shares = {name: w for (name, f), w in zip(ACTIVATIONS.items(), weights, strict=True) if f is not None}
    return {**shares, "": _total(list(shares.values()))}


def _mixed(states: Tensor, gate: Tensor, hidden: Tensor, shares: Mapping[str, Tensor]) -> Tensor:
    """Return the sum of what n edges give of their states (n, B, H): sum of w * (s + c * (f(h) - s)), regrouped."""
    moved = _total([shares[name] * f(hidden) for name, f in ACTIVATIONS.items() if f is not None])
    kept = shares[""] * states
    return (kept + gate * (moved - kept)).sum(0)


def _total(parts: Sequence[Tensor]) -> Tensor:
    return sum(parts[1:], start=parts[0])
