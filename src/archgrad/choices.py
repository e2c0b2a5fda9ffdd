"""The open choices that a person writes into a module: one layer of several, or some inputs of several.

A module with open choices is a *space*. It cannot be called as it is: a `Supernet` relaxes its choices, `derive` closes
them. Until then a choice only knows its candidates and its label.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from archgrad.checks import is_whole
from archgrad.errors import ArchitectureError, SpaceError
from archgrad.isolation import run_isolated
from archgrad.mixture import AlphaRow, Draw, Mixture, MixtureTable
from archgrad.nested import joined, map_tensors
from archgrad.nested_sum import check_alike, weighted_sum
from archgrad.recompute import recomputed

__all__ = ["AlphaRow", "Choice", "Draw", "InputChoice", "LayerChoice", "Mixture", "MixtureTable", "SelectInputs"]


class Choice(nn.Module, ABC):
    """Base of the open choices.

    Args:
        label: The name under which an architecture stores the decision. Choices with the same label decide together.
            None: the path of the choice in its space, with "/" between the parts.
    """

    def __init__(self, label: str | None) -> None:
        super().__init__()
        if label is not None and (not isinstance(label, str) or not label):
            raise SpaceError(f"A label must be a non-empty string, but got label={label!r}.")
        self.label = label
        self.recomputes = False
        """Whether the backward pass computes this choice's activations again, instead of the forward keeping them."""
        self._row: str | None = None
        self._table: MixtureTable | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run `forward`; if `recomputes`, without keeping what the backward pass can compute again."""
        if self.recomputes and self._table is not None and torch.is_grad_enabled():
            return recomputed(self, args, kwargs, partial(self._table.again, self._table.current))
        return super().__call__(*args, **kwargs)

    @abstractmethod
    def rows(self, label: str) -> dict[str, AlphaRow]:
        """Return the rows of alphas that this choice needs when it is called `label`."""

    def layer_choices(self, label: str) -> dict[str, LayerChoice]:
        """Return the layer choices that this choice consists of, by row: itself, or the edges of a cell."""
        return {label: self} if isinstance(self, LayerChoice) else {}

    def edges_of_nodes(self, label: str) -> dict[str, tuple[str, ...]]:
        """Return name of a sum -> the rows whose outputs it adds, which edge weights weigh; by default nothing."""
        return {}

    @abstractmethod
    def decide(self, label: str, probabilities: Mapping[str, Sequence[float]]) -> Any:
        """Return the decision (plain data) that the probabilities of this choice's rows lead to.

        Args:
            label: Of this choice.
            probabilities: By row, one a candidate; and, in a search with edge weights, those of `edges_of_nodes`.
        """

    def decide_plain(self, label: str, probabilities: Mapping[str, Sequence[float]]) -> Any:
        """Return the likeliest decision of all; it differs from `decide` where that leaves out what cannot be meant."""
        return self.decide(label, probabilities)

    @abstractmethod
    def fix(self, label: str, decision: Any) -> nn.Module:
        """Return the plain module that is left when `decision` is taken.

        Raises:
            ArchitectureError: The decision does not fit this choice.
        """

    def reached(self, label: str, decision: Any) -> nn.Module:
        """Return a module that has all choices which `decision` leaves open, by default the fixed one."""
        return self.fix(label, decision)

    def bind(self, label: str, table: MixtureTable) -> None:
        """Let forward passes take their mixture from `table`, under the row `label`."""
        self._row, self._table = label, table

    @property
    def mixture(self) -> Mixture:
        """The mixture of the forward pass that is running."""
        if self._table is None or self._row is None:
            name = "a choice" if self.label is None else f"Choice '{self.label}'"
            raise SpaceError(
                f"{name} is open and cannot run. Wrap its space in archgrad.Supernet(space) to search, "
                f"or call archgrad.derive(space, architecture) for a plain network."
            )
        try:
            return self._table.current[self._row]
        except KeyError:
            raise SpaceError(
                f"Choice '{self._row}' was called outside its supernet's forward pass. "
                f"Call the supernet, not a part of it. Where the network's code computes activations again in the "
                f"backward pass (torch.utils.checkpoint), switch that off, and search with "
                f"activation_checkpointing=True."
            ) from None


class LayerChoice(Choice):
    """One of several layers.

    Relaxed, it returns the weighted sum of its candidates' outputs (Liu et al. 2019, eq. 2). Candidates take the same
    arguments and return tensors, or equal structures (tuple, list, dict) of tensors, of equal shapes.

    Args:
        candidates: Name -> module, or a list of modules, then named "0", "1", ...
        label: See `Choice`.
    """

    def __init__(
        self, candidates: Mapping[str, nn.Module] | nn.ModuleDict | Sequence[nn.Module], label: str | None = None
    ) -> None:
        super().__init__(label)
        if isinstance(candidates, nn.Module) and not isinstance(
            candidates, nn.ModuleDict | nn.ModuleList | nn.Sequential
        ):
            raise SpaceError(
                f"LayerChoice(label={label!r}) needs several candidates, by name or in a list, but got one module, "
                f"{type(candidates).__name__}. Give for example {{'relu': nn.ReLU(), 'tanh': nn.Tanh()}}."
            )
        if isinstance(candidates, nn.ModuleDict):
            candidates = dict(candidates.items())
        if not isinstance(candidates, Mapping):
            candidates = {str(i): candidate for i, candidate in enumerate(candidates)}
        if not candidates:
            raise SpaceError(f"LayerChoice(label={label!r}) needs at least one candidate, but got none.")
        for name, candidate in candidates.items():
            if not isinstance(name, str) or not name or not isinstance(candidate, nn.Module):
                a_class = isinstance(candidate, type)
                got = f"a class. Give {candidate.__name__}(...)" if a_class else type(candidate).__name__
                raise SpaceError(
                    f"LayerChoice(label={label!r}) needs non-empty names (str) with modules, but got {name!r}: {got}."
                )
        self.names = tuple(candidates)
        # A ModuleList, not a ModuleDict: a candidate may be called 'pop' or 'keys', or have a dot in its name.
        self.candidates = nn.ModuleList(candidates.values())
        """In the order of `names`; then what always runs (see `archgrad.always_on`), which competes with none."""
        self.evaluator: Callable[[LayerChoice, Tensor], Any] | None = None
        """Set by a fast path: computes the forward pass from (choice, x) in its own way, where x is all it is given."""

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __getitem__(self, name: str) -> nn.Module:
        if name not in self.names:
            raise KeyError(name)
        return self.candidates[self.names.index(name)]

    def extra_repr(self) -> str:
        """Return what `repr` shows beside the candidates."""
        return f"label={self.label!r}, names={list(self.names)}"

    def rows(self, label: str) -> dict[str, AlphaRow]:
        """Return one row over the candidates."""
        return {label: AlphaRow(self.names)}

    def decide(self, label: str, probabilities: Mapping[str, Sequence[float]]) -> str:
        """Return the name of the likeliest candidate; of equals the first."""
        row = probabilities[label]
        return self.names[max(range(len(row)), key=lambda k: row[k])]

    def fix(self, label: str, decision: Any) -> nn.Module:
        """Return the candidate called `decision`."""
        if decision not in self.names:
            raise ArchitectureError(
                f"Choice '{label}' has no candidate {decision!r}. Its candidates are {', '.join(self.names)}."
            )
        return self[decision]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the mixture of the active candidates' outputs on the same arguments."""
        if self.evaluator is not None and len(args) == 1 and not kwargs:
            return self.evaluator(self, args[0])
        return self.one_by_one(*args, **kwargs)

    def one_by_one(self, *args: Any, **kwargs: Any) -> Any:
        """Return what `forward` does, every candidate as it is written."""
        return self.mixed(self.mixture, *args, **kwargs)

    def mixed(self, mixture: Mixture, *args: Any, **kwargs: Any) -> Any:
        """Return the same for a mixture that is given."""
        outputs = [self.run(k, *args, **kwargs) for k in mixture.active]
        return weighted_sum(outputs, mixture.weights, mixture.active, self._describe, mixture.straight_through)

    def run(self, k: int, *args: Any, **kwargs: Any) -> Any:
        """Return the output of the k-th candidate, which leaves its input as it was."""
        return run_isolated(self.candidates[k], *args, where=partial(self._name_of, k), **kwargs)

    def check_outputs(self, outputs: Sequence[Any], places: Sequence[int]) -> None:
        """Raise SpaceError if outputs of the candidates in these places cannot be mixed."""
        check_alike(outputs, places, self._describe)

    def _describe(self, k: int) -> tuple[str, str]:
        return f"Choice '{self._row}'", self.names[k] if k < len(self.names) else "always on"

    def _name_of(self, k: int) -> str:
        choice, name = self._describe(k)
        return f"Candidate '{name}' of {choice[0].lower()}{choice[1:]}"


_REDUCTIONS = ("sum", "mean", "concat", "none")


def _reduce(chosen: list[Any], reduction: str, dim: int) -> Any:
    if reduction == "none":
        return chosen
    if reduction == "concat":
        return joined(chosen, lambda tensors: torch.cat(tensors, dim))
    scale = len(chosen) if reduction == "mean" else 1
    return joined(chosen, lambda tensors: _total(tensors) if scale == 1 else _total(tensors) / scale)


def _total(tensors: list[Tensor]) -> Tensor:
    total = tensors[0]
    for tensor in tensors[1:]:
        total = total + tensor
    return total


class InputChoice(Choice):
    """Some of several inputs.

    Relaxed, the k-subsets of the n inputs compete with weight exp(sum of their alphas); the output is the expectation
    over subsets, so that it has the scale of the discrete choice (for k = 1 this is the softmax, for k = n every input
    counts once).

    Args:
        n_candidates: Number of inputs that are offered, at least 1.
        n_chosen: Number of inputs that are taken, from 1 to n_candidates.
        reduction: How the chosen inputs are joined: "sum", "mean", "concat" (along `dim`), or "none" (a list of them).
            Concatenated or listed inputs keep their order.
        dim: The dimension of "concat".
        label: See `Choice`.
    """

    def __init__(
        self, n_candidates: int, n_chosen: int = 1, reduction: str = "sum", label: str | None = None, *, dim: int = 1
    ) -> None:
        super().__init__(label)
        counts = (n_candidates, n_chosen)
        if not all(map(is_whole, counts)) or not 1 <= n_chosen <= n_candidates:
            raise SpaceError(
                f"InputChoice(label={label!r}) needs whole numbers with 1 <= n_chosen <= n_candidates, "
                f"but got n_chosen={n_chosen}, n_candidates={n_candidates}."
            )
        if reduction not in _REDUCTIONS:
            raise SpaceError(
                f"InputChoice(label={label!r}) needs a reduction of {', '.join(_REDUCTIONS)}, but got {reduction!r}."
            )
        self.n_candidates = n_candidates
        self.n_chosen = n_chosen
        self.reduction = reduction
        self.dim = dim

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        return (
            f"n_candidates={self.n_candidates}, n_chosen={self.n_chosen}, reduction={self.reduction!r}, "
            f"label={self.label!r}"
        )

    def rows(self, label: str) -> dict[str, AlphaRow]:
        """Return one row over the inputs."""
        return {label: AlphaRow(tuple(str(i) for i in range(self.n_candidates)), self.n_chosen)}

    def decide(self, label: str, probabilities: Mapping[str, Sequence[float]]) -> list[int]:
        """Return the indices of the likeliest inputs in ascending order; of equals the first."""
        row = probabilities[label]
        return sorted(sorted(range(len(row)), key=lambda i: -row[i])[: self.n_chosen])

    def fix(self, label: str, decision: Any) -> nn.Module:
        """Return a module that takes the inputs numbered in `decision`, a list or, as NNI writes it, one number."""
        if is_whole(decision):
            decision = [decision]
        valid = (
            isinstance(decision, Sequence)
            and not isinstance(decision, str)
            and all(is_whole(i, least=0) and i < self.n_candidates for i in decision)
            and len(decision) == len(set(decision)) == self.n_chosen
        )
        if not valid:
            raise ArchitectureError(
                f"Choice '{label}' takes {self.n_chosen} of inputs 0 to {self.n_candidates - 1}, each at most once, "
                f"but the architecture says {decision!r}."
            )
        return SelectInputs(sorted(decision), self.n_candidates, self.reduction, dim=self.dim)

    def forward(self, inputs: Sequence[Any]) -> Any:
        """Return the expected joined input.

        Args:
            inputs: n_candidates values of equal structure and shapes.
        """
        mixture = self.mixture
        _check_count(f"Choice '{self._row}'", inputs, self.n_candidates)
        active = [inputs[i] for i in mixture.active]
        if self.reduction in ("sum", "mean"):
            scale = self.n_chosen if self.reduction == "mean" else 1
            weights = mixture.weights if scale == 1 else mixture.weights / scale
            return weighted_sum(active, weights, mixture.active, self._describe, mixture.straight_through)
        places = [
            weighted_sum(active, place, mixture.active, self._describe, mixture.straight_through)
            for place in mixture.slots
        ]
        return _reduce(places, self.reduction, self.dim)

    def _describe(self, k: int) -> tuple[str, str]:
        return f"Choice '{self._row}'", f"input {k}"


def _check_count(where: str, inputs: Sequence[Any], expected: int) -> None:
    if not isinstance(inputs, Sequence) or len(inputs) != expected:
        got = f"{len(inputs)} inputs" if isinstance(inputs, Sequence) else type(inputs).__name__
        raise SpaceError(f"{where} needs a sequence of {expected} inputs, but got {got}.")


class SelectInputs(nn.Module):
    """What is left of an input choice in a derived network: take the chosen inputs and join them."""

    def __init__(self, chosen: Sequence[int], n_candidates: int, reduction: str, *, dim: int = 1) -> None:
        super().__init__()
        self.chosen = tuple(chosen)
        self.n_candidates = n_candidates
        self.reduction = reduction
        self.dim = dim
        self.copies = False
        """Whether an input that is given out as it is, not joined with others, is copied; `derive` sets it where
        something in the network works in place."""

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        return f"chosen={list(self.chosen)}, reduction={self.reduction!r}"

    def forward(self, inputs: Sequence[Any]) -> Any:
        """Return the chosen inputs of `inputs`, joined."""
        _check_count("SelectInputs", inputs, self.n_candidates)
        chosen = [inputs[i] for i in self.chosen]
        if self.copies and (len(chosen) == 1 or self.reduction == "none"):
            chosen = map_tensors(chosen, Tensor.clone)
        return _reduce(chosen, self.reduction, self.dim)
