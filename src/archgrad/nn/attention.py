"""Attention of which width and heads may be open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from archgrad.channel_blocks import ChannelBlocks
from archgrad.errors import SpaceError
from archgrad.valued import ValuedLayer, assignments
from archgrad.values import Number, Pick, Value

__all__ = ["MultiheadAttention"]


class MultiheadAttention(ValuedLayer):
    """`torch.nn.MultiheadAttention`, of which width, heads and dropout may be open.

    Attention is not linear in its weights, so it is computed once for each combination of values. A narrow one has the
    first features of query, key and value, and of the projections; its heads divide those that it has.

    Args:
        embed_dim: Features.
        num_heads: Must divide `embed_dim` in every combination.
        dropout: Probability of dropping a weight of the attention.
        bias: Whether the projections have one.
        batch_first: Whether tensors are (batch, sequence, features).
    """

    def __init__(
        self,
        embed_dim: Value | Number,
        num_heads: Value | Number,
        dropout: Value | float = 0.0,
        bias: bool = True,
        batch_first: bool = False,
    ) -> None:
        numbers = {"embed_dim": embed_dim, "num_heads": num_heads, "dropout": dropout}
        super().__init__(nn.MultiheadAttention, numbers, {"bias": bias, "batch_first": batch_first})

    def lay_out(self, picks: Sequence[Pick]) -> None:
        """Lay out the features."""
        self.features = ChannelBlocks(self.numbers["embed_dim"], picks, "embed_dim")
        if not self.features.is_one:
            raise SpaceError(f"{self.where()} cannot attend with concatenated features. Give embed_dim without a sum.")

    def widest(self, picks: Sequence[Pick]) -> nn.Module:
        """Return the widest attention."""
        widest = next(pick for pick in picks if self.features.sizes(pick) == self.features.widest)
        return self.kind(**self.arguments(widest))

    def sliced(self, pick: Pick) -> dict[str, Tensor]:
        """Return the first features of each projection."""
        sizes, widest = self.features.sizes(pick), self.features.total

        def first(weight: Tensor) -> Tensor:
            thirds = weight.view(-1, widest, *weight.shape[1:])  # of query, key and value; or the output's alone
            rows = self.features.narrow(thirds, 1, sizes).flatten(0, 1)
            return self.features.narrow(rows, 1, sizes) if weight.dim() == 2 else rows

        return {name: first(parameter) for name, parameter in self.layer.named_parameters()}

    def forward(  # type: ignore[override]
        self, query: Tensor, key: Tensor, value: Tensor, **options: Any
    ) -> tuple[Tensor, Tensor | None]:
        """Return what `torch.nn.MultiheadAttention` does, mixed.

        Args:
            query: As there, with the features of the widest.
            key: As above.
            value: As above.
            options: The masks, and what else it takes by name.
        """
        if not self.choices:
            return self.layer(query, key, value, **options)
        found = assignments(self.choices)
        outputs = []
        for pick, _ in found:
            sizes = self.features.sizes(pick)
            inputs = [self.features.narrow(x, -1, sizes) for x in (query, key, value)]
            output, weights = self.run(pick, *inputs, **options)
            outputs.append((self.features.widen(output, -1, sizes), weights))
        return self.mixed(outputs, found)
