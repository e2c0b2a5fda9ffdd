"""What the networks of the space cost: as a penalty of the alphas, or with a budget that the derived network keeps."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from archgrad.checks import check_real, check_word
from archgrad.choices import AlphaRow
from archgrad.cost_names import COSTS, MEASURED, unit_of_cost
from archgrad.errors import OptionError
from archgrad.regularizers.regularizer import Memory, Regularizer
from archgrad.relaxation import Relaxation
from archgrad.schedules import Number, check_number

__all__ = ["CostBudget", "CostPenalty", "SpaceCost"]

_LEAST = 1e-9
"""What a mean is taken to be at least, where all networks cost nothing."""
_SMALLEST = 1e-6
"""Share from which on its logarithm falls no more."""


def _check_cost(cost: Any) -> None:
    """Refuse what is neither a cost that is measured nor the name of a column that a table of costs can have."""
    if not isinstance(cost, str) or cost[-3:] not in MEASURED:
        check_word("cost", cost, COSTS)


class SpaceCost(Protocol):
    """What is asked of the cost of a space; `archgrad.ExpectedCost` answers it."""

    @property
    def rows(self) -> Mapping[str, AlphaRow]:
        """The rows of alphas, by label."""

    def mean(self, probabilities: Mapping[str, Tensor]) -> Tensor:
        """Return the mean cost, 0-dimensional."""

    def of(self, architecture: Any) -> float:
        """Return the cost of an architecture's network."""

    def where(self, architecture: Any) -> Mapping[str, float]:
        """Return the cost of each part of an architecture's network."""

    def range(self) -> tuple[float, float, float]:
        """Return the costs of the smallest, the median and the largest network."""


AnyCost = TypeVar("AnyCost", bound="_OfCost")


class _OfCost(Regularizer):
    """A term of the mean cost; the cost's table is not known before the space and its inputs are."""

    cost: str
    _table: SpaceCost | None = None

    def bound(
        self: AnyCost, cost_of: Callable[[str], SpaceCost], memory: Callable[[], Mapping[str, Memory]]
    ) -> AnyCost:
        """Return the term with the table of the space."""
        made = copy.copy(self)
        object.__setattr__(made, "_table", cost_of(self.cost))
        object.__setattr__(made, "_memory", memory)
        made.prepare()
        return made

    def prepare(self) -> None:
        """Work out what the table tells, once; by default nothing."""

    @property
    def table(self) -> SpaceCost:
        """What the networks of the space cost."""
        if self._table is None:
            raise OptionError(
                f"{type(self).__name__} needs to know what the networks of the space cost. In a search that is so; "
                f"elsewhere give {type(self).__name__}(...).bound(lambda cost: archgrad.ExpectedCost(space, inputs, "
                f"cost), lambda: supernet.memory)."
            )
        return self._table

    def mean(self, alphas: Mapping[str, Tensor], rows: Mapping[str, AlphaRow], relaxation: Relaxation) -> Tensor:
        """Return the mean cost under alphas."""
        return self._mean_at(
            {label: relaxation.expected(alphas[label], rows[label]) for label in self.table.rows}, rows
        )

    def _mean_at(self, weights: Mapping[str, Tensor], rows: Mapping[str, AlphaRow]) -> Tensor:
        """Return the mean cost, where candidates that were pruned have the probability 0."""
        probabilities = {}
        for label, whole in self.table.rows.items():
            p = weights[label]
            if rows[label].names != whole.names:
                places = torch.tensor([whole.names.index(name) for name in rows[label].names], device=p.device)
                p = torch.zeros(len(whole.names), dtype=p.dtype, device=p.device).index_copy(0, places, p)
            probabilities[label] = p
        mean = self.table.mean(probabilities)
        # Where no choice changes the cost, the term is a constant, of which there must be a gradient all the same.
        return mean if mean.requires_grad else mean + 0.0 * next(iter(probabilities.values())).sum()

    def figures(self, architecture: Any) -> dict[str, float]:
        """Return the cost of the network that is derived at the end of an epoch."""
        return {f"derived_{self.cost.replace('-', '_')}": float(self.table.of(architecture))}

    def where(self, architecture: Any) -> dict[str, Mapping[str, float]]:
        """Return what the parts of the network cost."""
        return {self.cost: self.table.where(architecture)}

    @abstractmethod
    def remark(self) -> str:
        """Return what the networks of the space cost."""

    def _sizes(self) -> str:
        smallest, median, largest = map(self._shown, self.table.range())
        return f"{self.cost} of the space's networks: smallest {smallest}, median {median}, largest {largest}"

    def _shown(self, cost: float) -> str:
        unit = unit_of_cost(self.cost)
        return f"{cost:.3g} {unit}" if unit else f"{cost:,.0f}"


@dataclass(frozen=True)
class CostPenalty(_OfCost):
    """The mean cost of the space's networks under the alphas, as a share of that where all candidates are equal.

    The mean is exact, and linear in each row of expected weights (see `archgrad.ExpectedCost`). Source: Cai et al. 2019
    (ProxylessNAS), eq. 6, whose cost is the latency.

    Multiplicative, the term is log(mean cost / that of equal candidates). exp(-loss), which of cross-entropy is the
    probability of the right class, is then multiplied by (cost / equal)^-weight, as Tan et al. 2019 (MnasNet, eq. 2)
    multiply the accuracy by (latency / target)^w with w = -0.07; the target is a constant factor.
    """

    weight: Number = 0.1
    """Factor of the term, at least 0; a number or a schedule. 0 searches as without it."""
    cost: str = "multiply-adds"
    """What is meant: "multiply-adds", "parameters", "activations", "latency" in milliseconds; or a column of the
    search's `cost_table`, such as "raspi4_ms"."""
    multiplicative: bool = False
    """Whether the cost multiplies, as a power of it, and so is added as its logarithm."""

    def __post_init__(self) -> None:
        check_number("weight", self.weight, least=0.0)
        _check_cost(self.cost)
        if not isinstance(self.multiplicative, bool):
            raise OptionError(f"multiplicative must be True or False, but got {self.multiplicative!r}.")

    def prepare(self) -> None:
        """Work out the mean over all networks."""
        equal = {
            label: torch.full((len(row.names),), row.n_chosen / len(row.names), dtype=torch.float64)
            for label, row in self.table.rows.items()
        }
        least = _LEAST if unit_of_cost(self.cost) else 1.0
        object.__setattr__(self, "_equal", max(float(self.table.mean(equal)), least))

    def value(self, alphas: Mapping[str, Tensor], rows: Mapping[str, AlphaRow], relaxation: Relaxation) -> Tensor:
        """Return the share, 1 where all candidates have the same weight; or its logarithm."""
        share = self.mean(alphas, rows, relaxation) / vars(self)["_equal"]
        return share.clamp_min(_SMALLEST).log() if self.multiplicative else share

    def remark(self) -> str:
        """Return what the networks of the space cost."""
        return f"{self._sizes()}."


@dataclass(frozen=True)
class CostBudget(_OfCost):
    """A limit of the derived network's cost, kept by a dual variable, the multiplier, at the end of each epoch.

    Where the likeliest network is above the limit, the multiplier rises until the network that is derived keeps it:
    each candidate loses as much of its log-probability as the multiplier times its share of the limit, so that another
    network is the likeliest (a Lagrangian relaxation). The alphas know nothing of it, and the search is the same as
    without a budget, unless `weight` is above 0. In our short searches such pressure gave networks far below the limit:
    by Adam the alphas all move in one direction, by their learning rate at each step, even if the multiplier is small.
    """

    limit: float
    """Most that the derived network may cost, above 0."""
    cost: str = "multiply-adds"
    """What is meant: "multiply-adds", "parameters", "activations", "latency" in milliseconds; or a column of the
    search's `cost_table`, such as "raspi4_ms"."""
    weight: Number = 0.0
    """How strongly the multiplier presses the alphas, at least 0; a number or a schedule. Their loss then has weight m
    (mean cost / limit - 1), where m is the multiplier of the epoch before, 0 at first; it is part of the checkpoint. A
    stage with a network of its own, and each member of an ensemble, begins at 0 again."""

    def __post_init__(self) -> None:
        check_number("weight", self.weight, least=0.0)
        _check_cost(self.cost)
        check_real("limit", self.limit, above=0.0)

    def prepare(self) -> None:
        """Refuse a budget that no network of the space keeps."""
        if self.table.range()[0] > self.limit:
            raise OptionError(
                f"No network of the space keeps the budget of {self._shown(self.limit)} {self.cost}: "
                f"{self._sizes()}. Raise the limit, or add smaller candidates."
            )

    @property
    def _key(self) -> str:
        return f"{type(self).__name__} {self.cost}"

    def value(self, alphas: Mapping[str, Tensor], rows: Mapping[str, AlphaRow], relaxation: Relaxation) -> Tensor:
        """Return the multiplier of the epoch before times the share by which the mean cost is above the limit."""
        memory = vars(self)["_memory"]().get(self._key, {})
        multiplier = float(memory["multiplier"]) if "multiplier" in memory else 0.0
        return multiplier * (self.mean(alphas, rows, relaxation) / self.limit - 1.0)

    def after_epoch(self, architecture: Any) -> dict[str, Memory]:
        """Return the multiplier that brought the epoch's network within its budgets."""
        return {self._key: {"multiplier": torch.tensor(_multiplier_of(architecture), dtype=torch.float64)}}

    def marginal(
        self, probabilities: Mapping[str, Sequence[float]], rows: Mapping[str, AlphaRow]
    ) -> dict[str, list[float]]:
        """Return how many limits the mean cost rises with the probability of each candidate.

        Args:
            probabilities: Of the candidates, by label of their row.
            rows: What each row decides between, by label.
        """
        weights = {
            label: torch.tensor(probabilities[label], dtype=torch.float64, requires_grad=True)
            for label in self.table.rows
        }
        share = self._mean_at(weights, rows) / self.limit
        slopes = torch.autograd.grad(share, list(weights.values()), allow_unused=True, materialize_grads=True)
        return {label: slope.tolist() for label, slope in zip(weights, slopes, strict=True)}

    def figures(self, architecture: Any) -> dict[str, float]:
        """Return the cost of the derived network, and the multiplier that brought it within its budgets."""
        return {
            **super().figures(architecture),
            f"multiplier_{self.cost.replace('-', '_')}": _multiplier_of(architecture),
        }

    def remark(self) -> str:
        """Return what the networks of the space cost, and the budget."""
        return f"{self._sizes()}; the budget is {self._shown(self.limit)}."

    def keeps(self, architecture: Any) -> bool:
        """Return whether a network costs no more than the limit."""
        return self.table.of(architecture) <= self.limit

    def change(self, before: Any, after: Any) -> str:
        """Return what one network costs and what another, beside the budget."""
        costs = " instead of ".join(self._shown(self.table.of(each)) for each in (after, before))
        return f"{costs} {self.cost}, within the budget of {self._shown(self.limit)}"

    def broken(self, architecture: Any) -> str | None:
        """Return by how much a network is above the budget; None if it keeps it."""
        if self.keeps(architecture):
            return None
        return (
            f"The derived network has {self._shown(self.table.of(architecture))} {self.cost}, more than the budget of "
            f"{self._shown(self.limit)}, and no multiplier brings it within: by the rules that the choices decide by, "
            f"it stays above where each takes what costs least. Raise the limit, or add smaller candidates."
        )


def _multiplier_of(architecture: Any) -> float:
    return float(architecture.provenance.get("multiplier", 0.0))
