"""What a perturbation must answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from archgrad.choices import AlphaRow, Draw, Mixture
from archgrad.relaxation import Relaxation
from archgrad.schedules import Progress

__all__ = ["Perturbation", "Probe"]

Probe: TypeAlias = Callable[[Mapping[str, Tensor]], tuple[Tensor, dict[str, Tensor]]]
"""Function of mixing weights by label, shaped as `Mixture.slots`: returns the training loss of the batch in evaluation
mode, 0-dimensional, and its gradient with respect to them. It leaves the supernet as it is."""


class Perturbation(ABC):
    """Moves the mixing weights of the weights' pass; the alphas' pass is never perturbed.

    As a relaxation does, it holds options only; what differs from pass to pass is in the draw.
    """

    def check(self, relaxation: Relaxation) -> None:
        """Raise OptionError if it does not go with the relaxation."""

    @abstractmethod
    def draw(
        self,
        mixtures: Mapping[str, Mixture],
        rows: Mapping[str, AlphaRow],
        progress: Progress | None,
        generator: torch.Generator,
        probe: Probe,
    ) -> dict[str, Draw]:
        """Return what one pass needs, by label.

        Args:
            mixtures: Of the pass before it is perturbed, without graph.
            rows: What each row of alphas decides between.
            progress: How far the search is; None where nobody said.
            generator: On the CPU; the only source of random numbers.
            probe: Evaluates the training loss at other mixing weights.
        """

    @abstractmethod
    def apply(self, mixture: Mixture, row: AlphaRow, draw: Draw) -> Mixture:
        """Return the perturbed mixture of one row.

        Args:
            mixture: As the relaxation gave it.
            row: What its entries stand for.
            draw: What `draw` gave for the row; on any device, in any floating type.
        """
