"""The gradient of a batch's loss, and its derivatives along directions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from archgrad.bilevel.passes import (
    Batch,
    Loss,
    added,
    differentiated_along,
    gradient_graph,
    joined_gradients,
    loss_of_parts,
    parts_of,
    repeated_random,
    run_pass,
)
from archgrad.supernet import Supernet

__all__ = ["SecondDerivative"]

Graph = tuple[tuple[Tensor | None, ...], Tensor]
"""Gradients with their graph, and the loss."""


class SecondDerivative:
    """g = dL/dx of a batch and, as often as wanted, d<g, u>/dy, always with the same random numbers.

    The graph of a whole batch is kept; graphs of parts would not fit together, and are built again each time. Attention
    runs unfused, by the operations of its formula, since dropout must fall alike in every pass.

    Args:
        supernet: In training mode, sharing one draw; no other may be shared later.
        batch: (inputs, targets).
        loss: See `archgrad.losses.Loss`.
        by: x, what is differentiated by first.
        accumulation: Parts that the batch is cut into.
        weights: Weights to use in place of the supernet's own, by name.
        random: Gives the passes their random numbers; one of their own by default.
    """

    def __init__(
        self,
        supernet: Supernet,
        batch: Batch,
        loss: Loss,
        by: Sequence[Tensor],
        *,
        accumulation: int,
        weights: Mapping[str, Tensor] | None = None,
        random: repeated_random | None = None,
    ) -> None:
        self._supernet, self._batch, self._loss, self._by = supernet, batch, loss, by
        self._accumulation, self._weights = accumulation, weights
        self._random = repeated_random(next(iter(supernet.alphas.values())).device) if random is None else random
        self._parts_by = loss_of_parts(loss, accumulation)
        self._kept: list[Graph] = []

    def gradient(self) -> list[Tensor | None]:
        """Return g, without graph."""
        if self._accumulation > 1:
            with self._random, sdpa_kernel(SDPBackend.MATH):
                return run_pass(
                    self._supernet,
                    self._batch,
                    self._loss,
                    self._by,
                    weights=self._weights,
                    accumulation=self._accumulation,
                ).gradients
        ((graph, value),) = self._graphs()
        return self._joined([None if g is None else g.detach() for g in graph], value)

    def along(
        self, direction: Sequence[Tensor | None], by: Sequence[Tensor], *, last: bool = False
    ) -> list[Tensor | None]:
        """Return d<g, u>/dy, where None is zero.

        Args:
            direction: u, one for each of x.
            by: y.
            last: Whether this is the last call, after which no graph is kept.
        """
        own: list[Tensor | None] = [None] * len(by)
        for graph, value in self._graphs():  # noqa: B007 (the last is used below)
            own = added(own, differentiated_along(graph, direction, by, retain_graph=not last))
        if last:
            self._kept.clear()
        return self._joined(own, value)

    def _graphs(self) -> Iterator[Graph]:
        if self._kept:
            yield from self._kept
            return
        with self._random:
            for part in parts_of(self._batch, self._accumulation):
                graph = gradient_graph(self._supernet, part, self._parts_by, self._by, weights=self._weights)
                if self._accumulation == 1:
                    self._kept.append(graph)
                yield graph

    def _joined(self, own: Sequence[Tensor | None], value: Tensor) -> list[Tensor | None]:
        return joined_gradients(own, value, self._batch, self._parts_by)[0]
