"""NNI's names of choices, with NNI's arguments, on top of archgrad's."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor, nn

from archgrad.cell import BuildCandidate
from archgrad.cell import Cell as Graph
from archgrad.choices import InputChoice as OpenInputs
from archgrad.choices import LayerChoice as OpenLayers
from archgrad.derived_cell import DerivedCell
from archgrad.errors import SpaceError
from archgrad.nni.frozen import FixedWhenBuilt, frozen_now
from archgrad.nni.numbering import label_or_number
from archgrad.repeat import Repeat as OpenRepeat
from archgrad.values import Number, Value
from archgrad.values import ValueChoice as OpenValue

__all__ = ["Cell", "InputChoice", "LayerChoice", "Repeat", "ValueChoice", "choice"]

_NO_PRIOR = "prior has no meaning in a search by gradients, whose alphas start by the seed. Leave it out."

Candidate: TypeAlias = nn.Module | Callable[..., nn.Module]


class LayerChoice(OpenLayers, metaclass=FixedWhenBuilt):
    """One of several layers; inside `fixed_arch` a call of this class returns the layer that was taken.

    Args:
        candidates: Name -> module, or a list of modules, then named "0", "1", ...
        prior: Not taken: a search by gradients has none.
        label: Of the decision; without one, the number in a wrapped model, else the path in the model.
    """

    def __init__(
        self,
        candidates: Mapping[str, nn.Module] | nn.ModuleDict | Sequence[nn.Module],
        *,
        prior: Sequence[float] | None = None,
        label: str | None = None,
    ) -> None:
        if prior is not None:
            raise SpaceError(_NO_PRIOR)
        super().__init__(candidates, label_or_number(label))

    def __getitem__(self, name: int | str) -> nn.Module:
        return super().__getitem__(self.names[name] if isinstance(name, int) else name)


class InputChoice(OpenInputs, metaclass=FixedWhenBuilt):
    """Some of several inputs; inside `fixed_arch` a call of this class returns a module that takes those.

    Args:
        n_candidates: Number of inputs that are offered.
        n_chosen: Number of inputs that are taken.
        reduction: "sum", "mean", "concat" or "none".
        prior: Not taken: a search by gradients has none.
        label: See `LayerChoice`.
    """

    def __init__(
        self,
        n_candidates: int,
        n_chosen: int | None = 1,
        reduction: str = "sum",
        *,
        prior: Sequence[float] | None = None,
        label: str | None = None,
    ) -> None:
        if prior is not None:
            raise SpaceError(_NO_PRIOR)
        if n_chosen is None:
            raise SpaceError(
                "n_chosen=None lets a search take any number of inputs, but archgrad's takes a fixed one. Give one."
            )
        super().__init__(n_candidates, n_chosen, reduction, label_or_number(label))


class _Graph(Graph, metaclass=FixedWhenBuilt):
    """archgrad's cell; inside `fixed_arch` a call returns the derived one."""


class Cell(nn.Module):
    """A cell of nodes, each a sum of operations on earlier states; it is archgrad's `Cell` between two functions.

    The operation "none" competes in the search and is never taken.

    Args:
        op_candidates: Modules, or functions of (node, number of the operation in its node, source) that build them,
            by name or as a list. The number is always 0, as candidates of one edge serve whichever place it gets.
        num_nodes: Number of nodes, at least 1.
        num_ops_per_node: Edges that a node keeps.
        num_predecessors: Number of inputs.
        merge_op: "all": the output joins all nodes.
        preprocessor: Function of the list of inputs that returns as many.
        postprocessor: Function of (output, list of inputs as they came) that returns the cell's output.
        concat_dim: 1.
        label: See `LayerChoice`.

    Attributes:
        output_node_indices: The nodes that the output joins.
    """

    def __init__(
        self,
        op_candidates: Mapping[str, Candidate] | Sequence[Candidate],
        num_nodes: int,
        num_ops_per_node: int = 1,
        num_predecessors: int = 1,
        merge_op: str = "all",
        preprocessor: Callable[[list[Tensor]], list[Tensor]] | None = None,
        postprocessor: Callable[[Tensor, list[Tensor]], Any] | None = None,
        concat_dim: int = 1,
        *,
        label: str | None = None,
    ) -> None:
        super().__init__()
        if merge_op != "all":
            raise SpaceError(
                f"merge_op must be 'all', but got {merge_op!r}: archgrad's cells have outputs of one width while they "
                f"are searched. Give merge_op='all'."
            )
        if concat_dim != 1:
            raise SpaceError(f"concat_dim must be 1, the channels, but got {concat_dim}. Give concat_dim=1.")
        if not isinstance(op_candidates, Mapping):
            op_candidates = {str(place): candidate for place, candidate in enumerate(op_candidates)}
        self.preprocessor = preprocessor
        self.graph = _Graph(
            num_nodes,
            {name: _builder(candidate) for name, candidate in op_candidates.items()},
            n_inputs=num_predecessors,
            n_kept=num_ops_per_node,
            lazy=frozen_now() is not None,  # only what was taken is built
            label=label_or_number(label),
        )
        self.postprocessor = postprocessor
        nodes = range(num_predecessors, num_predecessors + num_nodes)
        self.output_node_indices = list(nodes)
        if isinstance(self.graph, DerivedCell):
            if len(self.graph.nodes) != num_nodes:
                raise SpaceError(
                    f"This cell has {num_nodes} nodes, but the architecture has {len(self.graph.nodes)}. "
                    f"Build the model as it was built for the search."
                )
            self.output_node_indices = list(self.graph.concat)

    def forward(self, *inputs: Any) -> Any:
        """Return the output of the cell for its inputs, given one by one or as a list."""
        given = list(inputs[0]) if len(inputs) == 1 and isinstance(inputs[0], list | tuple) else list(inputs)
        states = given if self.preprocessor is None else self.preprocessor(given)
        output = self.graph(states)
        return output if self.postprocessor is None else self.postprocessor(output, given)


def _builder(candidate: Candidate) -> BuildCandidate:
    def build(source: int, node: int) -> nn.Module:
        if isinstance(candidate, nn.Module):
            return copy.deepcopy(candidate)
        return candidate(node, 0, source)

    return build


class ValueChoice(OpenValue, metaclass=FixedWhenBuilt):
    """One of several numbers; inside `fixed_arch` a call of this class returns the number that was taken.

    Args:
        candidates: Different numbers. They are given to the layers of this module, also in arithmetic.
        prior: Not taken: a search by gradients has none.
        label: See `LayerChoice`.
    """

    def __init__(
        self, candidates: Sequence[Number], *, prior: Sequence[float] | None = None, label: str | None = None
    ) -> None:
        if prior is not None:
            raise SpaceError(_NO_PRIOR)
        super().__init__(candidates, label_or_number(label))


def choice(label: str, candidates: Sequence[Number]) -> Any:
    """Return a `ValueChoice`, or inside `fixed_arch` its number (NNI 3: `nni.choice`)."""
    return ValueChoice(candidates, label=label)


def Repeat(blocks: Any, depth: Any, *, label: str | None = None) -> nn.Module:  # noqa: N802 (it stands for a module)
    """Return a block several times in a row.

    Args:
        blocks: A module, which is copied, a function of the number of the repetition that builds one, or a list of
            either.
        depth: How many, at least 1; a pair (fewest, most), of which the search chooses one; or an open number.
        label: Of the choice that a pair becomes; see `LayerChoice`.
    """
    if isinstance(depth, tuple | list) and len(depth) == 2 and all(type(end) is int for end in depth):
        depth = ValueChoice(list(range(depth[0], depth[1] + 1)), label=label)
    if isinstance(depth, Value):
        return OpenRepeat(lambda place: _block(blocks, place), depth)
    if isinstance(depth, bool) or not isinstance(depth, int) or depth < 1:
        raise SpaceError(f"depth must be a whole number of at least 1, a pair of them or open, but got {depth!r}.")
    return nn.Sequential(*(_block(blocks, place) for place in range(depth)))


def _block(blocks: Any, place: int) -> nn.Module:
    if isinstance(blocks, list | tuple | nn.ModuleList):
        if place >= len(blocks):
            raise SpaceError(f"Repeat needs a block for each repetition, but got {len(blocks)}. Give more.")
        blocks = blocks[place]
    return copy.deepcopy(blocks) if isinstance(blocks, nn.Module) else blocks(place)
