"""What the networks of a space cost: in the mean over the alphas, with a gradient, and each of them exactly.

The rows of alphas decide independently. A part of the network that depends on the rows r1, r2, ... costs
c(a1, a2, ...) where they decide so, and nothing where a decision leaves it out. Its mean is the sum over all a of
p_r1[a1] p_r2[a2] ... c(a1, a2, ...), where p are the expected weights of the relaxation: linear in each row. The mean
of the network is the sum over its parts, and what does not depend on a choice.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast, get_args

import torch
from torch import Tensor, nn

from archgrad.architecture import Architecture, as_architecture
from archgrad.cell import Cell
from archgrad.checks import is_whole
from archgrad.choices import Choice, LayerChoice, Mixture
from archgrad.copying import copied
from archgrad.cost import measured_cost
from archgrad.decision import taken_candidates
from archgrad.derive import derive
from archgrad.discretize import decide
from archgrad.equal_layers import module_key, shapes_key
from archgrad.errors import OptionError
from archgrad.fast.accelerate import restore
from archgrad.nested import tensors_in
from archgrad.repeat import Repeat
from archgrad.supernet import Supernet
from archgrad.valued import ValuedLayer, ValuedModule
from archgrad.values import Number, ValueChoice

__all__ = ["Cost", "CostRange", "ExpectedCost"]

Cost = Literal["multiply-adds", "parameters", "activations"]
_DRAWN = 101
"""Networks that are drawn for the median."""
_TRIED = 8
"""Networks that are built to see what does not depend on a choice."""

At = Mapping[str, "int | None"]
"""Place of the candidate that each row takes; None, or no entry, where it takes none."""


class CostRange(NamedTuple):
    """Costs of networks of a space."""

    smallest: int
    median: int
    """Of networks that are drawn with every candidate equally likely."""
    largest: int


@dataclass(frozen=True)
class _Condition:
    """What must be decided so that a part is in the network."""

    rows: tuple[str, ...]
    holds: Callable[[At], bool]
    share: float = 1.0
    """Probability that the part is left when the rows decide so."""


@dataclass(frozen=True)
class _Part:
    """A part of the network that depends on choices."""

    path: str
    rows: tuple[str, ...]
    costs: Tensor
    """Of the shape of the rows, float64; 0 where the part is left out."""
    share: float

    def mean(self, p: Mapping[str, Tensor]) -> Tensor:
        mean = self.costs.to(p[self.rows[0]])
        for row in self.rows:
            mean = torch.tensordot(p[row], mean, dims=1)
        return self.share * mean

    def at(self, at: At) -> int:
        places = [at.get(row) for row in self.rows]
        return 0 if None in places else int(self.costs[tuple(cast("list[int]", places))])


def _inside(choice: Choice) -> Iterator[nn.Module]:
    """Yield what stands in a choice, but for the edges of a cell themselves."""
    own = {id(choice), *(map(id, choice.edges) if isinstance(choice, Cell) else ())}
    return (part for part in choice.modules() if id(part) not in own)


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
        cost: "multiply-adds" of a prediction (see `archgrad.cost.count_multiply_adds`), trained "parameters", or
            "activations": the numbers that convolutions, linear layers and attentions return for one sample.

    Raises:
        OptionError: There is no such cost, or the networks cannot take such inputs.
    """

    def __init__(self, space: nn.Module, inputs: Any, cost: str = "multiply-adds") -> None:
        if cost not in get_args(Cost):
            raise OptionError(f"cost must be one of {', '.join(get_args(Cost))}, but got cost={cost!r}.")
        self.cost = cost
        self._range: CostRange | None = None
        network = copied(space.network) if isinstance(space, Supernet) else space
        if network is not space:
            restore(network)
        self._supernet = Supernet(network, fast=False).eval()
        self._labels = {id(entry.choice): entry.label for entry in self._supernet.choices}
        entries = self._supernet.choices
        nested = any(isinstance(part, Choice) for entry in entries for part in _inside(entry.choice))
        nested = nested or any(isinstance(part, ValuedModule) for part in self._supernet.network.modules())
        self._apart = None if nested else {entry.label: entry.choice for entry in reversed(entries)}
        """The choices by label where all are reached, whatever is decided; else None."""
        self.rows = self._supernet.rows
        """The rows of alphas, by label."""
        parts = list(self._find(self._supernet.network, "", ()))
        cuda = [like.device] if (like := self._like()).is_cuda else []
        with torch.random.fork_rng(cuda):
            self._measure(parts, self._sample(inputs))

    def _measure(self, parts: Sequence[tuple[str, nn.Module, tuple[_Condition, ...]]], sample: Any) -> None:
        calls = self._calls(sample, [module for _, module, _ in parts])
        occurs = Counter(id(module) for _, module, _ in parts)
        seen: Counter[int] = Counter()
        self._parts: list[_Part] = []
        self._equal: dict[Hashable, int] = {}
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
        self._known: dict[Architecture, int] = {}
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

    def _built(self, architecture: Architecture) -> int:
        if architecture not in self._known:
            with torch.random.fork_rng([self._like().device] if self._like().is_cuda else []):
                plain = derive(self._supernet.network, architecture).eval()
                self._known[architecture] = measured_cost(plain, self.cost, lambda: plain(self._sampled))
        return self._known[architecture]

    def _sum(self, architecture: Architecture) -> int:
        at = self._at(architecture)
        return sum(part.at(at) for part in self._parts)

    def _like(self) -> Tensor:
        return next(iter(self._supernet.alphas.values()))

    def _sample(self, inputs: Any) -> Any:
        if not isinstance(inputs, Sequence) or not all(map(is_whole, inputs)):
            return inputs
        like = self._like()
        return torch.zeros((1, *inputs), dtype=like.dtype, device=like.device)

    # The parts, and what each depends on.

    def _find(
        self, module: nn.Module, path: str, conditions: tuple[_Condition, ...]
    ) -> Iterator[tuple[str, nn.Module, tuple[_Condition, ...]]]:
        if isinstance(module, ValuedLayer) and module.choices:
            yield path, module, conditions
        elif isinstance(module, Repeat):
            for number, block in enumerate(module.blocks):
                yield from self._find(block, f"{path}.{number}", (*conditions, self._deeper(module, number)))
        elif isinstance(module, Cell):
            label = self._labels[id(module)]
            if module.partial_channels > 1:
                raise OptionError(
                    f"The cell '{label}' has partial_channels={module.partial_channels}: what is derived of it is "
                    f"wider than what is searched, so that its cost is not known. Build it with partial_channels=1."
                )
            for (source, node), edge in zip(module.pairs, module.edges, strict=True):
                kept = node if module.n_kept is None else min(module.n_kept, node)
                row = module.edge_label(label, source, node)
                yield from self._candidates(cast(LayerChoice, edge), row, path, conditions, kept / node)
        elif isinstance(module, LayerChoice):
            yield from self._candidates(module, self._labels[id(module)], path, conditions, 1.0)
        elif any(isinstance(part, Choice | ValuedModule) for part in module.modules()):
            for name, child in module.named_children():
                yield from self._find(child, f"{path}.{name}".lstrip("."), conditions)
        elif conditions:
            yield path, module, conditions

    def _candidates(
        self, choice: LayerChoice, row: str, path: str, conditions: tuple[_Condition, ...], share: float
    ) -> Iterator[tuple[str, nn.Module, tuple[_Condition, ...]]]:
        for k, name in enumerate(choice.names):
            taken = _Condition((row,), lambda at, k=k: at.get(row) == k, share)  # type: ignore[misc]
            yield from self._find(choice.candidates[k], f"{row}={name}", (*conditions, taken))

    def _deeper(self, repeat: Repeat, number: int) -> _Condition:
        def holds(at: At) -> bool:
            return repeat.depth_at(self._pick(at)) > number

        return _Condition(tuple(dict.fromkeys(self._labels[id(choice)] for choice in repeat.choices)), holds)

    def _pick(self, at: At) -> Callable[[ValueChoice], Number]:
        return lambda choice: choice.values[cast(int, at[self._labels[id(choice)]])]

    # What each part costs.

    def _calls(self, sample: Any, modules: Sequence[nn.Module]) -> dict[int, list[Any]]:
        """Return the arguments of every call of the modules in a pass that runs all of them, by identity."""
        calls: dict[int, list[Any]] = {}

        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            calls.setdefault(id(module), []).append((args, kwargs))

        hooks = [m.register_forward_pre_hook(note, with_kwargs=True) for m in {id(m): m for m in modules}.values()]
        like = self._like()
        sizes = {label: (row.n_chosen, len(row.names)) for label, row in self.rows.items()}
        mixtures = {
            label: Mixture(torch.full(size, 1 / size[1]).to(like), tuple(range(size[1])))
            for label, size in sizes.items()
        }
        try:
            with torch.no_grad():
                self._supernet.forward_at(mixtures, sample)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise OptionError(
                f"The networks of the space cannot take one input of shape "
                f"{', '.join(str(tuple(x.shape[1:])) for x in tensors_in(sample))}: {error}. Give the shape of one "
                f"sample, without the batch."
            ) from error
        finally:
            for hook in hooks:
                hook.remove()
        return calls

    def _measured(self, path: str, module: nn.Module, conditions: tuple[_Condition, ...], calls: list[Any]) -> _Part:
        own = [self._labels[id(choice)] for choice in module.choices] if isinstance(module, ValuedLayer) else []
        rows = tuple(dict.fromkeys([row for condition in conditions for row in condition.rows] + own))
        costs = torch.zeros([len(self.rows[row].names) for row in rows], dtype=torch.float64)
        known: dict[tuple[int, ...], int] = {}
        share = 1.0
        for condition in conditions:
            share *= condition.share
        for places in itertools.product(*map(range, costs.shape)):
            at = dict(zip(rows, places, strict=True))
            if all(condition.holds(at) for condition in conditions):
                key = tuple(at[row] for row in own)
                if key not in known:
                    known[key] = self._cost_of(module, at, calls)
                costs[places] = known[key]
        return _Part(path, rows, costs, share)

    def _cost_of(self, module: nn.Module, at: At, calls: list[Any]) -> int:
        """Return the cost of one part; of equal modules with inputs of equal shape only the first is run."""
        plain = module.skeleton(self._pick(at)) if isinstance(module, ValuedLayer) else module
        keys = (module_key(plain), shapes_key(calls))
        if None in keys:
            return self._run(module, at, calls)
        key = (type(module), *keys)
        if key not in self._equal:
            self._equal[key] = self._run(module, at, calls)
        return self._equal[key]

    def _run(self, module: nn.Module, at: At, calls: list[Any]) -> int:
        if not isinstance(module, ValuedLayer):
            return measured_cost(module, self.cost, lambda: [module(*args, **kwargs) for args, kwargs in calls])
        pick = self._pick(at)
        plain = module.skeleton(pick)
        if not module.multiplies and self.cost != "parameters":
            return 0
        return measured_cost(plain, self.cost, lambda: [module.at(pick, *args, **kwargs) for args, kwargs in calls])

    # What is asked.

    def expected(self, supernet: Supernet) -> Tensor:
        """Return the mean cost over the alphas of a supernet of the space, 0-dimensional, with a gradient."""
        alphas, relaxation = supernet.alphas, supernet.relaxation
        return self.mean({label: relaxation.expected(alphas[label], row) for label, row in self.rows.items()})

    def mean(self, probabilities: Mapping[str, Tensor]) -> Tensor:
        """Return the mean cost where each row takes its candidates with these probabilities, (K,) each, by label."""
        whole = next(iter(probabilities.values())).new_tensor(float(self.constant))
        return whole + sum(part.mean(probabilities) for part in self._parts)

    def of(self, architecture: Architecture | Any) -> int:
        """Return the cost of the derived network of an architecture of the space."""
        found = as_architecture(architecture)
        return self.constant + self._sum(found) if self.is_sum else self._built(found)

    def where(self, architecture: Architecture | Any) -> dict[str, int]:
        """Return where the cost of an architecture sits: path or candidate -> its cost, the largest first."""
        at = self._at(as_architecture(architecture))
        found: dict[str, int] = {"what does not depend on a choice": self.constant}
        for part in self._parts:
            found[part.path] = found.get(part.path, 0) + part.at(at)
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

    def _extreme(self, sign: int) -> int:
        at = dict.fromkeys(self.rows, 0)

        def cost() -> int:
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
