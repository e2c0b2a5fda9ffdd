"""A table of vectors of which the width may be open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor, nn

from archgrad.channel_blocks import ChannelBlocks
from archgrad.valued import ValuedLayer, assignments
from archgrad.values import Number, Pick, Value

__all__ = ["Embedding"]


class Embedding(ValuedLayer):
    """`torch.nn.Embedding`, of which the features may be open: a narrow table has the first of each row.

    Args:
        num_embeddings: Rows.
        embedding_dim: Features of a row.
        padding_idx: As in `torch.nn.Embedding`.
    """

    def __init__(self, num_embeddings: int, embedding_dim: Value | Number, padding_idx: int | None = None) -> None:
        options = {"num_embeddings": num_embeddings, "padding_idx": padding_idx}
        super().__init__(nn.Embedding, {"embedding_dim": embedding_dim}, options)

    def lay_out(self, picks: Sequence[Pick]) -> None:
        """Lay out the features."""
        self.features = ChannelBlocks(self.numbers["embedding_dim"], picks, "embedding_dim")

    def widest(self, picks: Sequence[Pick]) -> nn.Module:
        """Return the widest table."""
        return self.kind(embedding_dim=self.features.total, **self.options)

    def sliced(self, pick: Pick) -> dict[str, Tensor]:
        """Return the features of the width."""
        return {"weight": self.features.narrow(cast(Tensor, self.layer.weight), 1, self.features.sizes(pick))}

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., widest) of whole numbers (...)."""
        y = self.layer(x)  # linear in the table: the features times the weight of the widths that have them
        if not self.choices:
            return cast(Tensor, y)
        return cast(Tensor, self.with_inactive(y * self.features.shares(assignments(self.choices), y)))

    def at(self, pick: Pick, x: Tensor, **options: Any) -> Tensor:
        """Return what one width looks up."""
        return self.features.widen(self.run(pick, x, **options), -1, self.features.sizes(pick))
