"""A space of transformer encoders, for images by patches and for sequences of tokens: heads, MLP ratio, depth.

Source: Vaswani et al. 2017; Dosovitskiy et al. 2021 (patches); Chen et al. 2021 (AutoFormer, what is open).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from archgrad import nn as open_nn
from archgrad.errors import OptionError
from archgrad.repeat import Repeat
from archgrad.sizes import check_fits_memory, check_whole
from archgrad.values import ValueChoice

__all__ = ["TransformerNetwork", "transformer"]


class _Block(nn.Module):
    """Attention and an MLP, each of what LayerNorm gives, and each added."""

    def __init__(self, width: int, heads: ValueChoice, ratio: ValueChoice) -> None:
        super().__init__()
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = open_nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(open_nn.Linear(width, width * ratio), nn.GELU(), open_nn.Linear(width * ratio, width))

    def forward(self, x: Tensor, is_padding: Tensor | None) -> Tensor:
        y = self.attention_norm(x)
        x = x + self.attention(y, y, y, key_padding_mask=is_padding, need_weights=False)[0]
        return x + self.mlp(self.mlp_norm(x))


class TransformerNetwork(nn.Module):
    """Patches or tokens as vectors, with their place; blocks; and a classifier of the mean."""

    space_name = "transformer"

    def __init__(
        self,
        *,
        width: int,
        num_classes: int,
        in_channels: int,
        patch: int,
        vocabulary: int | None,
        padding: int | None,
        depth: int,
        heads: Sequence[int],
        ratios: Sequence[int],
    ) -> None:
        super().__init__()
        self.padding = padding
        self.reads_tokens = vocabulary is not None
        self.embedding: nn.Module = (
            nn.Conv2d(in_channels, width, patch, patch) if vocabulary is None else nn.Embedding(vocabulary, width)
        )

        def block(number: int) -> nn.Module:
            label = f"block{number}"
            return _Block(width, ValueChoice(heads, f"{label}/heads"), ValueChoice(ratios, f"{label}/ratio"))

        self.blocks = Repeat(block, range(1, depth + 1), "depth")
        self.norm, self.classifier = nn.LayerNorm(width), nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, num_classes) of images (B, in_channels, H, W), or of tokens (B, L) int64."""
        is_padding = None if self.padding is None else x == self.padding
        y = self.embedding(x)
        y = y if self.reads_tokens else y.flatten(2).transpose(1, 2)
        y = y + _places(y)
        if is_padding is None:
            return self.classifier(self.norm(self.blocks(y, None)).mean(1))
        is_padding = is_padding & ~is_padding.all(1, keepdim=True)  # of nothing but padding, all is read
        y = self.norm(self.blocks(y, is_padding)).masked_fill(is_padding[:, :, None], 0)
        return self.classifier(y.sum(1) / (~is_padding).sum(1, keepdim=True))


def _places(x: Tensor) -> Tensor:
    """Return sines and cosines (L, width) that tell the place of each vector (Vaswani et al. 2017, section 3.5)."""
    length, width = x.shape[1:]
    at = torch.arange(length, device=x.device)[:, None]
    angles = at * 10_000 ** (-torch.arange(0, width, 2, device=x.device) / width)
    return torch.cat([angles.sin(), angles.cos()], 1)[:, :width].to(x.dtype)


def transformer(
    width: int = 64,
    num_classes: int = 10,
    *,
    in_channels: int = 3,
    patch: int = 4,
    vocabulary: int | None = None,
    padding: int | None = None,
    depth: int = 4,
    heads: Sequence[int] = (1, 2, 4),
    ratios: Sequence[int] = (1, 2, 4),
) -> nn.Module:
    """Build a space of transformer encoders for images, or for sequences of tokens, whose sizes are searched.

    Open are the depth, and the heads and the MLP ratio of each block.

    Args:
        width: Features of a patch or token, a multiple of all `heads`.
        num_classes: Number of classes.
        in_channels: Channels of the images.
        patch: Side of a patch in pixels, at least 1; what does not fill a patch at the image's end is left out.
        vocabulary: Number of tokens: inputs are then sequences of whole numbers from 0 to one less. None is for images.
        padding: The token that fills up short sequences, which nothing attends to; None where all are equally long.
        depth: Most blocks, at least 1; the fewest are 1.
        heads: Of the attentions.
        ratios: How many times as wide as `width` the MLPs are inside, whole numbers.

    Raises:
        OptionError: A size outside its range.
        SpaceError: A list that holds no different numbers of its kind, or heads that do not divide the width.
    """
    sizes = {"width": width, "num_classes": num_classes, "in_channels": in_channels, "patch": patch, "depth": depth}
    for name, value in sizes.items():
        check_whole(name, value, least=1)
    if vocabulary is not None:
        check_whole("vocabulary", vocabulary, least=1)
    if padding is not None:
        if vocabulary is None:
            raise OptionError(f"padding is a token, but got padding={padding} without a vocabulary. Give both.")
        check_whole("padding", padding, least=0, most=vocabulary - 1)

    def build(_: int = 1) -> nn.Module:
        return TransformerNetwork(**sizes, vocabulary=vocabulary, padding=padding, heads=heads, ratios=ratios)

    check_fits_memory(build, cells=1, channels=width, **sizes)
    return build()
