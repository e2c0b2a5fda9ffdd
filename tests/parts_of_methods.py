"""Every part that a method can be made of, found in the package, and spaces in which searches take moments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import archgrad as ag
from archgrad.data import Data, TensorSamples
from archgrad.methods import Method, Stage
from archgrad.methods.tree import KINDS, classes_of
from archgrad.operations import DARTS_OPERATIONS
from archgrad.testing import TabularSpace

__all__ = ["NOT_PARTS", "PARTS", "SPACES", "CellNetwork", "Part", "TinySpace", "images", "method_of", "space_of_preset"]


@dataclass(frozen=True, eq=False)
class Part:
    """Something that a method can have."""

    kind: str
    """A field of `Method`."""
    name: str
    value: Any

    @property
    def key(self) -> str:
        """Kind and name; what tables in tests call it."""
        return f"{self.kind} {self.name}"


NOT_PARTS: Mapping[str, Mapping[str, Any]] = {
    "stages": {
        "keep": (Stage(epochs=1), Stage(epochs=1, keep=2)),
        "waiting": (Stage(epochs=1, alphas_start_epoch=1), Stage(epochs=1)),
        "anew": (Stage(epochs=1), Stage(epochs=1, space={"size": 4}, skip_dropout=0.5)),
        "widening": (Stage(epochs=1), Stage(epochs=1, space={"size": 4}, widen=True)),
    },
    "weights_first": {"true": True},
    "alphas_grad_clip": {"small": 0.01},
    "skip_noise": {"small": 0.2},
}
"""What a method has beside parts: other values than the default of each field."""
SHORT: Mapping[str, Mapping[str, Any]] = {
    "hessian-eigenvalue": {"iterations": 2},
    "adversarial": {"steps": 1},
    "implicit": {"iterations": 1},
    "flooding": {"level": 0.5},
    "freeze-operations": {"interval": 1},
    "skip-count": {"limit": 99},
    "cost-budget": {"limit": 1e12},
    "one-shot": {"networks": 2},
    "ensemble": {"members": 2},
    "perturbation-based": {"tune_epochs": 0},
}
"""Options with which a part takes less time, or does within two steps what it does later by default."""


def _parts() -> Iterable[Part]:
    for kind, entry in KINDS.items():
        for name, part in classes_of(entry).items():
            yield Part(kind, name, part(**SHORT.get(name, {})))
    for field, values in NOT_PARTS.items():
        yield from (Part(field, name, value) for name, value in values.items())


PARTS = tuple(_parts())


def method_of(parts: Iterable[Part]) -> Method:
    """Return the method that has these parts and the defaults of all other kinds.

    Raises:
        OptionError: They do not go together.
    """
    chosen: dict[str, Any] = {}
    for part in parts:
        several = part.kind in KINDS and KINDS[part.kind].several
        chosen[part.kind] = (*chosen.get(part.kind, ()), part.value) if several else part.value
    return Method(**chosen)


def unlisted_fields() -> list[str]:
    """Return the fields of `Method` that no part here is of."""
    return [field.name for field in fields(Method) if field.name not in {*KINDS, *NOT_PARTS, "source"}]


class CellNetwork(nn.Module):
    """Cells of few operations on images; all but each third one decide together.

    Args:
        channels: Of every layer.
        cells: Number of cells.
        options: Of every `Cell`.
    """

    def __init__(self, channels: int = 2, cells: int = 3, **options: Any) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 3, stride=2, padding=1)
        labels = ["reduce" if i == 2 else "normal" for i in range(cells)]
        self.cells = nn.ModuleList(self._cell(label, channels, **options) for label in labels)
        self.head = nn.Linear(channels, 3)

    @staticmethod
    def _cell(label: str, channels: int, **options: Any) -> ag.Cell:
        reduction = label == "reduce"

        def build(name: str) -> Callable[..., nn.Module]:
            return lambda source, node, parts=1: DARTS_OPERATIONS[name](
                channels // parts, 2 if reduction and source < 2 else 1, False
            )

        candidates = {name: build(name) for name in ("none", "skip_connect", "max_pool_3x3", "dil_conv_3x3")}
        return ag.Cell(1 if reduction else 2, candidates, label=label, output="last", **options)

    def forward(self, x: Tensor) -> Tensor:
        before = x = self.stem(x)
        for cell in self.cells:
            # After a reduction both inputs have its size.
            before, x = x, cell([before if before.shape == x.shape else x, x])
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


def images(samples: int = 8, side: int = 8) -> Data:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 255, (samples, 1, side, side), generator=generator, dtype=torch.uint8)
    return Data.from_datasets(TensorSamples(pixels, torch.arange(samples) % 3), classes=["a", "b", "c"], name="rows")


def rows(samples: int = 8) -> tuple[Tensor, Tensor]:
    return torch.randn(samples, 4, generator=torch.Generator().manual_seed(0)), torch.arange(samples) % 3


def _cells(size: int = 2) -> nn.Module:
    return CellNetwork(size)


def _nasbench201(size: int = 2) -> nn.Module:
    return ag.spaces.nasbench201(size, 1, 3, in_channels=1)


def _table(size: int = 2) -> nn.Module:
    return TabularSpace(width=size, chosen=1)


def _table_of_two(size: int = 2) -> nn.Module:
    return TabularSpace(width=size)


class TinySpace(NamedTuple):
    """A space and data for it."""

    build: Callable[..., nn.Module]
    """Called with the size, or without."""
    data: Callable[[], Any]


SPACES = {
    "cells": TinySpace(_cells, images),
    "nasbench201": TinySpace(_nasbench201, images),
    "table": TinySpace(_table, rows),
    "table of two": TinySpace(_table_of_two, rows),
}
"""By name. The tables are no images: nested layer choices, and an input choice that takes one or two."""


def space_of_preset(method: Method) -> Any:
    """Return a space of small cells: a module, or what builds those that the stages of a method ask for."""
    asked = {name for stage in method.stages for name in getattr(stage, "space", {})}
    return partial(CellNetwork, 24 if "partial_channels" in asked else 2) if asked else CellNetwork()
