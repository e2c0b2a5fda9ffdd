"""The recurrent space of DARTS: an embedding, a recurrent cell over the steps of a sequence, a class at each step.

Source: Liu et al. 2019, sections 2.1 and 3.2 and appendix A.1, and their code.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archgrad.checks import check_real
from archgrad.errors import OptionError
from archgrad.sizes import check_fits_memory, check_whole
from archgrad.spaces.recurrent_cell import RecurrentCell

__all__ = ["DartsRnnNetwork", "darts_rnn"]


class _LockedDropout(nn.Module):
    """Dropout with one mask for all steps of a sequence (Gal and Ghahramani 2016)."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def extra_repr(self) -> str:
        return f"p={self.p}"

    def mask(self, like: Tensor) -> Tensor | None:
        """Return a mask of the shape of `like`; None where nothing is dropped."""
        return F.dropout(torch.ones_like(like), self.p) if self.training and self.p else None

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, T, H) of (B, T, H)."""
        mask = self.mask(x[:, :1])
        return x if mask is None else x * mask


class DartsRnnNetwork(nn.Module):
    """Embedding, recurrent cell, linear layer to the classes; where these are the tokens, both share their weights."""

    space_name = "darts-rnn"

    def __init__(
        self,
        *,
        num_classes: int,
        vocabulary: int,
        hidden_size: int,
        nodes: int,
        normalise: bool,
        dropout: float,
        dropout_embedded: float,
        dropout_input: float,
        dropout_hidden: float,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, hidden_size)
        self.cell = RecurrentCell(nodes, hidden_size, normalise=normalise, label="recurrent")
        self.dropout, self.dropout_embedded = _LockedDropout(dropout), _LockedDropout(dropout_embedded)
        self.dropout_input, self.dropout_hidden = _LockedDropout(dropout_input), _LockedDropout(dropout_hidden)
        self.decoder = nn.Linear(hidden_size, num_classes)
        if num_classes == vocabulary:
            self.embedding.weight = self.decoder.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Return scores (B, num_classes, T) of token numbers (B, T)."""
        x = self.dropout_input(self.dropout_embedded(self.embedding(tokens)))
        outputs = self.cell([x], self.dropout_hidden.mask(x[:, 0]))
        return self.decoder(self.dropout(outputs)).transpose(1, 2)


def darts_rnn(
    num_classes: int = 64,
    *,
    vocabulary: int | None = None,
    hidden_size: int = 128,
    nodes: int = 8,
    dropout: float = 0.0,
    dropout_embedded: float = 0.0,
    dropout_input: float = 0.0,
    dropout_hidden: float = 0.0,
    stage: str = "search",
) -> nn.Module:
    """Build the paper's recurrent space, for sequences of token numbers (B, T) and a class at each step.

    Args:
        num_classes: Number of classes; in language modelling the number of tokens.
        vocabulary: Number of different tokens in the sequences; None for as many as classes. If both are equal,
            the scores are products with the embedding's own weights.
        hidden_size: Of embedding and cell, at least 1 (paper: 300 to search, 850 to retrain).
        nodes: Of the cell, at least 1 (paper: 8).
        dropout: Share of the cell's outputs that is dropped in training, as all of these with one mask for all steps;
            from 0 to below 1 (paper: 0.75).
        dropout_embedded: Of the embedded tokens (paper: 0.2).
        dropout_input: Of what W_0 reads of these (paper: 0.75).
        dropout_hidden: Of what W_0 and the nodes' weights read of states (paper: 0.25).
        stage: "search" (every state through a BatchNorm without affine part) or "retrain" (without).

    Returns:
        A space with the cell "recurrent": on each of its nodes * (nodes + 1) / 2 edges one of "none", "tanh", "relu",
        "sigmoid" and "identity". A network returns scores (B, num_classes, T).

    Raises:
        OptionError: A value outside its range.

    Source: Liu et al. 2019, section 3.2; one input a node, as in their section 2.4.
    """
    sizes = {"num_classes": num_classes, "hidden_size": hidden_size, "nodes": nodes}
    sizes["vocabulary"] = num_classes if vocabulary is None else vocabulary
    for name, value in sizes.items():
        check_whole(name, value, least=1)
    dropouts: dict[str, Any] = {
        "dropout": dropout,
        "dropout_embedded": dropout_embedded,
        "dropout_input": dropout_input,
        "dropout_hidden": dropout_hidden,
    }
    for name, share in dropouts.items():
        check_real(name, share, below=1.0)
    if stage not in ("search", "retrain"):
        raise OptionError(f"stage must be 'search' or 'retrain', but got stage={stage!r}.")

    def build(_: int) -> DartsRnnNetwork:
        return DartsRnnNetwork(normalise=stage == "search", **sizes, **dropouts)

    check_fits_memory(build, cells=1, channels=hidden_size, num_classes=num_classes, joined=nodes)
    return build(1)
