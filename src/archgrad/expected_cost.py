"""What the networks of a space cost: in the mean over the alphas, with a gradient, and each of them exactly.

The rows of alphas decide independently. A part of the network that depends on the rows r1, r2, ... costs
c(a1, a2, ...) where they decide so, and nothing where a decision leaves it out. Its mean is the sum over all a of
p_r1[a1] p_r2[a2] ... c(a1, a2, ...), where p are the expected weights of the relaxation: linear in each row. The mean
of the network is the sum over its parts, and what does not depend on a choice.
"""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from archgrad.architecture import Architecture, as_architecture
from archgrad.calling import arguments_for, run_on
from archgrad.cell import Cell
from archgrad.checks import is_whole
from archgrad.choices import Choice, Mixture
from archgrad.copying import copied
from archgrad.cost import measured_cost
from archgrad.cost_parts import At, Condition, Part, PartFinder
from archgrad.decision import taken_candidates
from archgrad.derive import derive
from archgrad.discretize import decide
from archgrad.equal_layers import called, digest, module_key, shapes_key
from archgrad.errors import OptionError
from archgrad.fast.accelerate import restore
from archgrad.latency import LatencyTable
from archgrad.nested import tensors_in
from archgrad.supernet import Supernet
from archgrad.valued import ValuedLayer, ValuedModule

__all__ = ["Cost", "CostRange", "ExpectedCost"]

Cost = Literal["multiply-adds", "parameters", "activations", "latency"]
_DRAWN = 101
"""Networks that are drawn for the median."""
_TRIED = 8
"""Networks that are built to see what does not depend on a choice."""
_TIMED = 3
"""Networks that are timed for the same."""


class CostRange(NamedTuple):
    """Costs of networks of a space."""

    smallest: float
    median: float
    """Of networks that are drawn with every candidate equally likely."""
    largest: float


def _inside(choice: Choice) -> Iterator[nn.Module]:
    """Yield what stands in a choice, but for the edges of a cell themselves."""
    own = {id(choice), *(map(id, choice.edges) if isinstance(choice, Cell) else ())}
    return (part for part in choice.modules() if id(part) not in own)


def _with_whole_cells(space: nn.Module) -> nn.Module:
    """Return a space whose cells are derived as wide as they are: a copy where cells have partial channels."""
    if not any(isinstance(module, Cell) and module.partial_channels > 1 for module in space.modules()):
        return space
    space = copied(space)
    with torch.random.fork_rng([]):
        whole: dict[nn.Module, Cell] = {cell: cell.whole() for cell in space.modules() if isinstance(cell, Cell)}
    for parent in list(space.modules()):
        parent._modules.update({name: whole[m] for name, m in parent._modules.items() if m in whole})
    return whole.get(space, space)


class ExpectedCost:
    """What the networks of a space cost.

    Parts are modules in candidates, cells and repeated blocks, and layers with open numbers; each is measured once for
    each combination of what it depends on. What a module of a person's own computes between them, by functions such as
    `torch.matmul`, must cost the same in all networks.

    Of the edges of a cell that keeps only some of them, each is counted in the mean as often as if all were equally
    likely to be kept. Where a space drops layers that nothing uses (`after_derive`), the cost of a network is measured
    on the network itself, and the mean counts these layers as if they stayed.

    Args:
        space: A module with open choices, or a `Supernet`; stays as it is.
        inputs: A batch of one sample, as the network takes it; or the shape of the sample, without the batch.
        cost: "multiply-adds" of a prediction (see `archgrad.cost.count_multiply_adds`), trained "parameters",
            "activations": the numbers that convolutions, linear layers and attentions return for one sample; or
            "latency": milliseconds of a prediction, the sum of what its parts take when each is timed by itself, and
            of what else networks of the space take, as timed on some. Layers that a space drops count as if they
            stayed. Cells with partial channels cost what is derived of them.
        latencies: What is known of how long parts take; new ones are timed on the device of the space, and added.

    Raises:
        OptionError: There is no such cost, or the networks cannot take such inputs.
    """

    def __init__(
        self, space: nn.Module, inputs: Any, cost: str = "multiply-adds", *, latencies: LatencyTable | None = None
    ) -> None:
        if cost not in get_args(Cost):
            raise OptionError(
                f"cost must be one of {', '.join(get_args(Cost))}, but got cost={cost!r}. A column of a table is one "
                f"in a search with cost_table."
            )
        self.cost = cost
        self._range: CostRange | None = None
        network = copied(space.network) if isinstance(space, Supernet) else space
        if network is not space:
            restore(network)
        self._supernet = Supernet(_with_whole_cells(network), fast=False).eval()
        self._labels = {id(entry.choice): entry.label for entry in self._supernet.choices}
        self._finder = PartFinder(self._labels)
        entries = self._supernet.choices
        nested = any(isinstance(part, Choice) for entry in entries for part in _inside(entry.choice))
        nested = nested or any(isinstance(part, ValuedModule) for part in self._supernet.network.modules())
        self._apart = None if nested else {entry.label: entry.choice for entry in reversed(entries)}
        """The choices by label where all are reached, whatever is decided; else None."""
        self.rows = self._supernet.rows
        """The rows of alphas, by label."""
        self.latencies = LatencyTable(self._like().device) if latencies is None else latencies
        """How long parts take; empty but for the cost "latency"."""
        parts = list(self._finder.find(self._supernet.network, "", ()))
        cuda = [like.device] if (like := self._like()).is_cuda else []
        with torch.random.fork_rng(cuda):
            self._measure(parts, self._sample(inputs))

    def _measure(self, parts: Sequence[tuple[str, nn.Module, tuple[Condition, ...]]], sample: Any) -> None:
        calls = self._calls(sample, [module for _, module, _ in parts])
        occurs = Counter(id(module) for _, module, _ in parts)
        seen: Counter[int] = Counter()
        self._parts: list[Part] = []
        self._equal: dict[Hashable, float] = {}
        self._timed_keys: set[str] = set()
        for path, module, conditions in parts:
            if self.cost == "parameters" and seen[id(module)]:
                continue  # a module that occurs twice has its parameters once
            every = calls.get(id(module), [])
            each = len(every) // occurs[id(module)]
            begin = each * seen[id(module)]
            seen[id(module)] += 1
            part = self._measured(path, module, conditions, every[begin : begin + each])
            if bool(part.costs.any()):
                self._parts.append(part)
        self._sampled = sample
        self._known: dict[Architecture, float] = {}
        if self.cost == "latency":
            self.constant, self.is_sum = self._rest(sample), True
            return
        generator = torch.Generator().manual_seed(0)
        tried = [self._drawn(generator) for _ in range(_TRIED)]
        rest = [self._built(found) - self._sum(found) for found in tried]
        self.constant = max(rest)
        """Of what does not depend on a choice."""
        self.is_sum = len(set(rest)) == 1
        """Whether each network costs the sum of its parts; not so where a space drops what nothing uses."""

    def _drawn(self, generator: torch.Generator) -> Architecture:
        scores = {row: torch.rand(len(r.names), generator=generator).tolist() for row, r in self.rows.items()}
        return self._decided(scores)

    def _decided(self, scores: Mapping[str, Sequence[float]]) -> Architecture:
        if self._apart is None:
            return Architecture(decide(self._supernet.network, self._supernet.choices, scores))
        return Architecture({label: choice.decide(label, scores) for label, choice in self._apart.items()})

    def _built(self, architecture: Architecture) -> float:
        if architecture not in self._known:
            with torch.random.fork_rng([self._like().device] if self._like().is_cuda else []):
                plain = derive(self._supernet.network, architecture).eval()
                self._known[architecture] = measured_cost(plain, self.cost, lambda: run_on(plain, self._sampled))
        return self._known[architecture]

    def _sum(self, architecture: Architecture) -> float:
        at = self._at(architecture)
        return self._amount(sum(part.at(at) for part in self._parts))

    def _amount(self, cost: float) -> float:
        """Return a count as a whole number, and a time as it is."""
        return cost if self.cost == "latency" else int(cost)

    def _rest(self, sample: Any) -> float:
        """Return the milliseconds of what does not depend on a choice: the median over some networks, at least 0."""
        generator = torch.Generator().manual_seed(0)
        parts = sorted(self._timed_keys)
        rest = []
        for number in range(_TIMED):
            found = self._drawn(generator)
            plain = derive(self._supernet.network, found).eval()
            key = digest("network", number, parts, shapes_key([sample]))
            calls = [arguments_for(plain, sample)]
            rest.append(self._milliseconds(key, f"network {number + 1} of those drawn", plain, calls))
            rest[-1] -= self._sum(found)
        return max(0.0, statistics.median(rest))

    def _like(self) -> Tensor:
        return next(iter(self._supernet.alphas.values()))

    def _sample(self, inputs: Any) -> Any:
        if not isinstance(inputs, Sequence) or not all(map(is_whole, inputs)):
            return inputs
        like = self._like()
        return torch.zeros((1, *inputs), dtype=like.dtype, device=like.device)

    # What each part costs.

    def _calls(self, sample: Any, modules: Sequence[nn.Module]) -> dict[int, list[Any]]:
        """Return the arguments of every call of the modules in a pass that runs all of them, by identity."""
        like = self._like()
        sizes = {label: (row.n_chosen, len(row.names)) for label, row in self.rows.items()}
        mixtures = {
            label: Mixture(torch.full(size, 1 / size[1]).to(like), tuple(range(size[1])))
            for label, size in sizes.items()
        }
        try:
            with called(*modules) as calls, torch.no_grad():
                self._supernet.forward_at(mixtures, sample)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise OptionError(
                f"The networks of the space cannot take one input of shape "
                f"{', '.join(str(tuple(x.shape[1:])) for x in tensors_in(sample))}: {error}. Give the shape of one "
                f"sample, without the batch."
            ) from error
        found: dict[int, list[Any]] = {}
        for module, args, kwargs in calls:
            found.setdefault(id(module), []).append((args, kwargs))
        return found

    def _measured(self, path: str, module: nn.Module, conditions: tuple[Condition, ...], calls: list[Any]) -> Part:
        own = [self._labels[id(choice)] for choice in module.choices] if isinstance(module, ValuedLayer) else []
        rows = tuple(dict.fromkeys([row for condition in conditions for row in condition.rows] + own))
        costs = torch.zeros([len(self.rows[row].names) for row in rows], dtype=torch.float64)
        known: dict[tuple[int, ...], float] = {}
        share = 1.0
        for condition in conditions:
            share *= condition.share
        for places in itertools.product(*map(range, costs.shape)):
            at = dict(zip(rows, places, strict=True))
            if all(condition.holds(at) for condition in conditions):
                key = tuple(at[row] for row in own)
                if key not in known:
                    known[key] = self._cost_of(path, module, at, calls)
                costs[places] = known[key]
        return Part(path, rows, costs, share)

    def _cost_of(self, path: str, module: nn.Module, at: At, calls: list[Any]) -> float:
        """Return the cost of one part; of equal modules with inputs of equal shape only the first is run."""
        plain = module.skeleton(self._finder.pick(at)) if isinstance(module, ValuedLayer) else module
        keys = (module_key(plain), shapes_key(calls))
        if None in keys:
            return self._run(path, module, at, calls)
        key = (type(module), *keys)
        if key not in self._equal:
            self._equal[key] = self._run(path, module, at, calls)
        return self._equal[key]

    def _run(self, path: str, module: nn.Module, at: At, calls: list[Any]) -> float:
        if self.cost == "latency":
            return self._timed(path, module, at, calls)
        if not isinstance(module, ValuedLayer):
            return measured_cost(module, self.cost, lambda: [module(*args, **kwargs) for args, kwargs in calls])
        pick = self._finder.pick(at)
        plain = module.skeleton(pick)
        if not module.multiplies and self.cost != "parameters":
            return 0
        return measured_cost(plain, self.cost, lambda: [module.at(pick, *args, **kwargs) for args, kwargs in calls])

    def _timed(self, path: str, module: nn.Module, at: At, calls: list[Any]) -> float:
        """Return the milliseconds of one part, of an open layer as the plain one that is derived of it."""
        if isinstance(module, ValuedLayer):
            pick = self._finder.pick(at)
            with called(module.skeleton(pick)) as noted, torch.no_grad():
                for args, kwargs in calls:
                    module.at(pick, *args, **kwargs)
            module, calls = module.closed(pick, keep_weights=True).eval(), [each[1:] for each in noted]
        if not calls:
            return 0.0
        own = module_key(module)
        key = digest((path, repr(module)) if own is None else own, shapes_key(calls))
        self._timed_keys.add(key)
        return self._milliseconds(key, " ".join(repr(module).split()), module, calls)

    def _milliseconds(self, key: str, what: str, module: nn.Module, calls: list[Any]) -> float:
        shapes = " ".join(str(tuple(x.shape)) for x in tensors_in(calls))
        with torch.no_grad():
            return self.latencies.milliseconds(
                key, what, shapes, lambda: [module(*args, **kwargs) for args, kwargs in calls]
            )

    # What is asked.

    def expected(self, supernet: Supernet) -> Tensor:
        """Return the mean cost over the alphas of a supernet of the space, 0-dimensional, with a gradient."""
        alphas, relaxation = supernet.alphas, supernet.relaxation
        return self.mean({label: relaxation.expected(alphas[label], row) for label, row in self.rows.items()})

    def mean(self, probabilities: Mapping[str, Tensor]) -> Tensor:
        """Return the mean cost where each row takes its candidates with these probabilities, (K,) each, by label."""
        whole = next(iter(probabilities.values())).new_tensor(float(self.constant))
        return whole + sum(part.mean(probabilities) for part in self._parts)

    def of(self, architecture: Architecture | Any) -> float:
        """Return the cost of the derived network of an architecture of the space."""
        found = as_architecture(architecture)
        return self.constant + self._sum(found) if self.is_sum else self._built(found)

    def where(self, architecture: Architecture | Any) -> dict[str, float]:
        """Return where the cost of an architecture sits: path or candidate -> its cost, the largest first."""
        at = self._at(as_architecture(architecture))
        found: dict[str, float] = {"what does not depend on a choice": self.constant}
        for part in self._parts:
            found[part.path] = found.get(part.path, 0) + self._amount(part.at(at))
        return dict(sorted(((path, n) for path, n in found.items() if n), key=lambda item: -item[1]))

    def range(self) -> CostRange:
        """Return the costs of the smallest, the median and the largest network.

        Smallest and largest are found by changing one row at a time until none helps, which finds them where a
        candidate that costs more than another does so whatever the other rows take.
        """
        if self._range is not None:
            return self._range
        generator = torch.Generator().manual_seed(0)
        drawn = [self.of(self._drawn(generator)) for _ in range(_DRAWN)]
        ends = [self._extreme(sign) for sign in (1, -1)]
        self._range = CostRange(min(ends[0], *drawn), sorted(drawn)[_DRAWN // 2], max(ends[1], *drawn))
        return self._range

    def _extreme(self, sign: int) -> float:
        at = dict.fromkeys(self.rows, 0)

        def cost() -> float:
            scores = {label: [float(k == at[label]) for k in range(len(row.names))] for label, row in self.rows.items()}
            return self.of(self._decided(scores))

        best = cost()
        better = True
        while better:
            better = False
            for label, row in self.rows.items():
                for k in range(len(row.names)):
                    if k == at[label]:
                        continue
                    before, at[label] = at[label], k
                    if sign * (found := cost()) < sign * best:
                        best, better = found, True
                    else:
                        at[label] = before
        return best

    def _at(self, architecture: Architecture) -> dict[str, int | None]:
        at: dict[str, int | None] = {}
        for row, names in taken_candidates(architecture.choices).items():
            known = self.rows[row].names if row in self.rows else ()
            at[row] = next((known.index(name) for name in names if name in known), None)
        return at
