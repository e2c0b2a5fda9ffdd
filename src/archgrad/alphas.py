"""The alphas of a supernet by label, and what one of its forward passes draws."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from torch import Tensor, nn

from archgrad.choices import Draw

__all__ = ["AlphaTable", "PassDraw"]


class PassDraw(NamedTuple):
    """Everything that one forward pass needs beside weights, alphas and its batch: tensors, by label and name."""

    relaxation: Mapping[str, Draw]
    perturbation: Mapping[str, Draw]
    """Empty where the pass is not perturbed."""
    edges: Mapping[str, Draw]
    """Of the edge weights' relaxation; empty where edges are not weighed."""
    always_on: Draw
    """The "weight" of what always runs, 0-dimensional; empty where nothing does."""


class AlphaTable(nn.Module, Mapping[str, nn.Parameter]):
    """The alphas by label; a mapping to read and a module to save. In the state dict "." in a label reads "/"."""

    __hash__ = nn.Module.__hash__
    __eq__ = object.__eq__

    def __init__(self, rows: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._key = {label: label.replace(".", "/") for label in rows}
        for label, row in rows.items():
            # Past register_parameter, which refuses names that a module has as attributes ("keys", "train").
            self._parameters[self._key[label]] = nn.Parameter(row)

    def __getitem__(self, label: str) -> nn.Parameter:
        parameter = self._parameters[self._key[label]]
        assert parameter is not None
        return parameter

    def __iter__(self) -> Iterator[str]:
        return iter(self._key)

    def __len__(self) -> int:
        return len(self._key)
