"""Weights of the edges that enter a node: one more row of alphas for each node, relaxed by a relaxation of its own."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from archgrad.choices import AlphaRow, Draw, Mixture
from archgrad.errors import OptionError
from archgrad.labels import LabelledChoice, edges_of_nodes
from archgrad.relaxation import Relaxation
from archgrad.schedules import Progress

__all__ = ["EdgeWeights"]


class EdgeWeights:
    """The edges of a space's cells, node by node, and how those of a node are weighed against each other.

    An edge gives q times its mixture, where q is the weight of the edge among those that enter its node.

    Args:
        relaxation: Turns a row of alphas, one for each edge of a node, into q; it runs all candidates.
        choices: Of a space.

    Raises:
        OptionError: The space has no cell, or the relaxation draws some of the candidates.

    Source: Xu et al. 2020 (PC-DARTS), section 3.3, eq. 2, with the softmax.
    """

    def __init__(self, relaxation: Relaxation, choices: list[LabelledChoice]) -> None:
        self.relaxation = relaxation
        self.edges = edges_of_nodes(choices)
        """Name of the row of a node -> the rows of its edges, by source."""
        self.rows = {node: AlphaRow(edges) for node, edges in self.edges.items()}
        if not self.edges:
            raise OptionError(
                "Edge weights weigh the edges that enter a node of a Cell against each other, but this space has no "
                "Cell. Leave edge_weights out, or build the space of cells."
            )
        if not relaxation.runs_all:
            raise OptionError(
                f"Edge weights are for all edges of a node at once, but {type(relaxation).__name__} draws those that "
                f"run. Take edge_weights=Softmax()."
            )
        relaxation.check(self.rows)

    def initial(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the first alphas of every node."""
        return {node: self.relaxation.initial(row, generator) for node, row in self.rows.items()}

    def draw(
        self, alphas: Mapping[str, Tensor], progress: Progress | None, generator: torch.Generator
    ) -> dict[str, Draw]:
        """Return what one pass needs, by node; arguments as `Relaxation.draw`."""
        return {
            node: self.relaxation.draw(alphas[node].detach(), row, progress, generator)
            for node, row in self.rows.items()
        }

    def weigh(
        self, mixtures: Mapping[str, Mixture], alphas: Mapping[str, Tensor], draws: Mapping[str, Draw]
    ) -> dict[str, Mixture]:
        """Return the mixtures, by row, those of edges times their weights."""
        found = dict(mixtures)
        for node, row in self.rows.items():
            weights = self.relaxation.mix(alphas[node], row, draws[node]).weights
            for edge, weight in zip(self.edges[node], weights.unbind(), strict=True):
                found[edge] = found[edge].on_edge(weight)
        return found

    def probabilities(self, alphas: Mapping[str, Tensor]) -> dict[str, list[float]]:
        """Return for each node the weights that rank its edges, by source."""
        with torch.no_grad():
            return {
                node: self.relaxation.probabilities(alphas[node].double(), row).tolist()
                for node, row in self.rows.items()
            }
