"""Operation-level early stopping, OLES."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from archgrad.schedules import check_number
from archgrad.sizes import check_whole
from archgrad.weights_rules.weights_rule import Gradients, RuleResult, WeightsPass, WeightsRule

__all__ = ["FreezeOperations", "gradient_match"]


@dataclass(frozen=True)
class FreezeOperations(WeightsRule):
    """The weights of a candidate learn no more once its training gradient no longer agrees with the validation one.

    Each step measures the match of every candidate that has weights (see `gradient_match`), between the training
    gradient and that of the alphas' pass. Where the mean of `interval` measurements is below `threshold`, the candidate
    begins to fit the training half alone, and stays as it is for the rest of the search; so do its momentum and decay.

    Source: Jiang et al. 2023 (OLES). Their code compares with the training gradient of the step before, and divides a
    sum of 21 matches by 20; here both gradients are of one step, and the mean is one of `interval`.
    """

    threshold: float = 0.4
    """Mean match below which a candidate is frozen, from -1 to 1."""
    interval: int = 20
    """Measurements of a candidate that are averaged, at least 1; then the next begin."""

    looks_at_valid = True

    def __post_init__(self) -> None:
        check_number("threshold", self.threshold, least=-1.0)
        check_whole("interval", self.interval, least=1)

    def apply(self, training: WeightsPass) -> RuleResult:
        """Leave frozen candidates without a gradient.

        The figures are the mean match of the candidates that still learn ("gradient_match", 0 where none was measured),
        and the share of candidates that do not ("frozen_operations").
        """
        names = _each_once(training.owners)
        zeros = torch.zeros(len(names), dtype=torch.float64, device=training.loss.device)
        sums, counts, frozen = (
            training.memory.get(name, zeros).to(zeros) for name in ("match_sums", "match_counts", "frozen")
        )
        now, seen = zeros, zeros
        if training.valid is not None:
            now, seen = gradient_match(training.gradients, training.valid, training.owners)
        learning = seen * (1.0 - frozen)
        match = (now * learning).sum() / learning.sum().clamp_min(1.0)
        sums, counts = sums + now * seen, counts + seen
        full = counts >= self.interval
        frozen = torch.where(full & (sums / counts.clamp_min(1.0) < self.threshold), 1.0, frozen)
        sums, counts = (torch.where(full, 0.0, x) for x in (sums, counts))
        still = {name for name, stopped in zip(names, frozen.tolist(), strict=True) if stopped}
        gradients = {name: None if training.owners.get(name) in still else g for name, g in training.gradients.items()}
        figures = {"gradient_match": match, "frozen_operations": frozen.sum() / max(len(names), 1)}
        return RuleResult(gradients, figures, {"match_sums": sums, "match_counts": counts, "frozen": frozen})

    def widened(
        self, memory: Mapping[str, Tensor], before: Mapping[str, str], after: Mapping[str, str]
    ) -> Mapping[str, Tensor]:
        """Return the memory by the larger network's candidates: of those that it had it is kept, new ones have none."""
        old = {name: place for place, name in enumerate(_each_once(before))}
        places = [old.get(name) for name in _each_once(after)]
        return {
            key: torch.stack([value.new_zeros(()) if k is None else value[k] for k in places])
            for key, value in memory.items()
        }


def _each_once(owners: Mapping[str, str]) -> list[str]:
    """The candidates, in the order of the memory."""
    return list(dict.fromkeys(owners.values()))


def gradient_match(train: Gradients, valid: Gradients, owners: Mapping[str, str]) -> tuple[Tensor, Tensor]:
    """Return the match of each owner of weights, and 1 where there is one, else 0; both (owners,), float64.

    The match of a weight is the cosine between both of its gradients along the first dimension, averaged over the
    others; that of an owner is the mean over its weights that have both gradients.

    Args:
        train: Name of the weight -> its gradient of the training loss.
        valid: The same of the validation loss.
        owners: Name of the weight -> whose it is, for the weights that count.
    """
    places = {owner: place for place, owner in enumerate(_each_once(owners))}
    alike: defaultdict[torch.Size, list[str]] = defaultdict(list)
    device = None
    for name in owners:
        g, v = train.get(name), valid.get(name)
        if g is not None and v is not None:
            alike[g.shape].append(name)
            device = g.device
    sums = torch.zeros(len(places), dtype=torch.float64, device=device)
    counts = torch.zeros_like(sums)
    for names in alike.values():  # together, since a supernet has a thousand small weights of few shapes
        ours, theirs = (torch.stack([by[name] for name in names]) for by in (train, valid))  # type: ignore[misc]
        rows = ours.shape[1] if ours.dim() > 1 else 1
        ours, theirs = (x.reshape(len(names), rows, -1) for x in (ours, theirs))
        means = F.cosine_similarity(ours, theirs, dim=1).mean(1)
        place = torch.tensor([places[owners[name]] for name in names], device=device)
        sums = sums.index_add(0, place, means.to(sums))
        counts = counts.index_add(0, place, torch.ones_like(means).to(counts))
    return sums / counts.clamp_min(1.0), (counts > 0).to(sums)
