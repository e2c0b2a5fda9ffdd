"""Searches that are cut short at a place of choice, as Ctrl-C does it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from archgrad.testing import TabularSpace


class Cuts:
    """A loss and a space that are interrupted at a pass or a build, counted from 1; at 0 they never are.

    Attributes:
        calls: Training passes so far.
        builds: Networks so far.
    """

    def __init__(self) -> None:
        self.begin()

    def begin(self, *, call: int = 0, build: int = 0) -> None:
        """Count anew, and interrupt there."""
        self.calls = self.builds = 0
        self._call, self._build = call, build

    def loss(self, outputs: Any, targets: Any) -> Any:
        """Return the cross-entropy."""
        self.calls += torch.is_grad_enabled()  # not the look before the first step
        if 0 < self.calls == self._call:
            raise KeyboardInterrupt
        return F.cross_entropy(outputs, targets)

    def space(self, width: int = 4) -> nn.Module:
        """Return a small network."""
        self.builds += 1
        if self.builds == self._build:
            raise KeyboardInterrupt
        return TabularSpace(width=width)
