"""The selection of one-shot methods: networks are drawn, and the supernet's weights say which is best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from archgrad.architecture import Architecture
from archgrad.calling import run_on
from archgrad.cell import Cell
from archgrad.checks import check_word
from archgrad.decision import taken_candidates
from archgrad.derive import derive
from archgrad.discretize import decide
from archgrad.distributed import average_over_ranks
from archgrad.epoch_end import EpochEnd
from archgrad.errors import OptionError
from archgrad.selection.measured import CRITERIA, Criterion, validated
from archgrad.selection.selection import Scores, Selection
from archgrad.sizes import check_whole
from archgrad.supernet import Supernet

__all__ = ["OneShot"]

_DRAWS = 50
"""Draws for each network that is measured, most of which may break the budget or have been drawn before."""


@dataclass(frozen=True)
class OneShot(Selection):
    """The best network on the validation half with the supernet's weights, of some that the alphas make likely.

    When the search ends, the likeliest network and others are measured: each row takes its candidates with their
    probabilities, without replacement where it takes several. Networks that break a budget of the search are not
    measured. Each has its part of the supernet's weights; statistics of BatchNorm are estimated anew for it, over the
    validation batches, whose targets play no part in that. Of equals the likeliest, or else the first is taken.

    Source: Bender et al. 2018, section 3.3 (one-shot models rank networks); Guo et al. 2020, section 3.4 (statistics of
    BatchNorm for each).
    """

    networks: int = 20
    """How many are measured, at least 1; fewer where draws give no others."""
    criterion: Criterion = "loss"
    """What is best: the lowest "loss", or the highest "accuracy", of logits of classes."""

    def __post_init__(self) -> None:
        check_whole("networks", self.networks, least=1)
        check_word("criterion", self.criterion, CRITERIA)

    def further_epochs(self, supernet: Supernet) -> int:
        """Return 0; refuse cells with partial channels, whose derived networks have other weights."""
        if any(isinstance(entry.choice, Cell) and entry.choice.partial_channels > 1 for entry in supernet.choices):
            raise OptionError(
                "OneShot measures networks with the supernet's weights, but a cell with partial_channels is derived "
                "with more channels than it is searched with. Take another selection, or partial_channels=1."
            )
        return 0

    def settle(self, end: EpochEnd, tuned: int, say: Callable[[str], None] = lambda said: None) -> None:
        """Measure networks, and remember which is best."""
        found = self._drawn(end)
        if not found:
            say(f"None of {_DRAWS * self.networks} networks that were drawn keeps the budget. The likeliest is taken.")
            return
        values = {architecture: self._measure(end, architecture) for architecture in found}
        best = (max if self.criterion == "accuracy" else min)(values, key=lambda each: values[each])
        taken = taken_candidates(best.choices)
        end.supernet.memory[type(self).__name__] = {
            label: torch.tensor([float(name in taken.get(label, ())) for name in row.names], dtype=torch.float64)
            for label, row in end.supernet.rows.items()
        }
        say(
            f"{len(found)} networks were measured with the supernet's weights: {self.criterion} from "
            f"{min(values.values()):.4f} to {max(values.values()):.4f}. The best is taken."
        )

    def _drawn(self, end: EpochEnd) -> list[Architecture]:
        """Return different networks within the budget, the likeliest first where it is."""
        supernet = end.supernet
        probabilities, edges = supernet.probabilities(), supernet.edge_probabilities()
        found: dict[Architecture, None] = {}
        scores: Scores = probabilities
        for _ in range(_DRAWS * self.networks):
            drawn = Architecture(decide(supernet.network, supernet.choices, {**edges, **scores}))
            if drawn not in found and end.within_budget(drawn):
                found[drawn] = None
            if len(found) == self.networks:
                break
            scores = {label: self._key(row, supernet.generator) for label, row in probabilities.items()}
        return list(found)

    @staticmethod
    def _key(row: Sequence[float], generator: torch.Generator) -> list[float]:
        """Return numbers from 0 to 1 of which those of the largest k are k candidates, drawn without replacement.

        Of waiting times e with rates p the shortest e / p wins; p / (p + e) falls with it, and is 0 for p = 0 alone.
        """
        rates = torch.tensor(row, dtype=torch.float64)
        waits = -torch.rand(len(row), generator=generator, dtype=torch.float64).log()
        return (rates / (rates + waits)).tolist()

    def _measure(self, end: EpochEnd, architecture: Architecture) -> float:
        network = derive(end.supernet, architecture, keep_weights=True).eval()
        _estimate_statistics(network, end)
        return validated(end, self.criterion, network)

    def scores(self, supernet: Supernet) -> Scores:
        """Return the probabilities; once networks were measured, 1 for what the best one has, and 0 for what not."""
        best = supernet.memory.get(type(self).__name__)
        return supernet.probabilities() if best is None else {label: row.tolist() for label, row in best.items()}


@torch.no_grad()
def _estimate_statistics(network: nn.Module, end: EpochEnd) -> None:
    """Set BatchNorm's running statistics to the mean of those of the validation batches, on all processes."""
    norms = [part for part in network.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]
    if not norms:
        return
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all batches
        norm.train()
    for inputs, _ in end.valid_batches():
        run_on(network, inputs)
    own = [norm.get_buffer(name) for norm in norms for name in ("running_mean", "running_var")]
    for statistics, mean in zip(own, average_over_ranks(own, 1), strict=True):
        statistics.copy_(mean)
    network.eval()
