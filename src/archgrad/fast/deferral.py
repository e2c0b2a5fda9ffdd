"""Layer choices that a person's own code calls one by one, computed together as the edges of a cell are.

Edges that leave one state share its ReLU and pools, and edges that enter one node end in one sum. In a `Cell` both are
known beforehand; in other code they show as it runs. So inside a pass of a supernet layer choices give what is
`Deferred`. When it is read, all that was deferred until then is laid out like a cell and computed by one program of the
compiled kernels (`native_cell`); where these do not know all of it, the choices compute one after the other.

That is for networks whose code was read and is known to do nothing but call functions that a `Deferred` knows of
(`memory_format`), and for choices whose BatchNorms stand nowhere else: their statistics move later than their call.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor, nn

from archgrad.choices import LayerChoice, Mixture
from archgrad.errors import SpaceError
from archgrad.fast import native_cell
from archgrad.fast.deferred import Deferred, Output, Summand, settled
from archgrad.fast.lowering import (
    FreeWiring,
    Layout,
    are_finite,
    are_images,
    kind_of_pass,
    known_operations,
    lay_out,
    states_of,
)
from archgrad.fast.memory_layout import as_written, is_channels_last
from archgrad.fast.unchanged import StructureCache

__all__ = ["Deferral", "Groups", "deferral", "deferring"]

_MOST = 64
"""Choices that are computed together; what is deferred is held in memory until then."""
_CURRENT: ContextVar[Deferral | None] = ContextVar("deferral", default=None)


def deferral() -> Deferral | None:
    """Return the pass of this thread in which layer choices may be deferred, if there is one."""
    return _CURRENT.get()


@contextmanager
def deferring(groups: Groups, alone: frozenset[int]) -> Iterator[None]:
    """Let layer choices be deferred inside; at the end everything is computed.

    Args:
        groups: Of the network, kept from pass to pass.
        alone: See `Groups.deferrable`.
    """
    present = Deferral(groups, alone)
    token = _CURRENT.set(present)
    try:
        yield
    except Exception:
        with suppress(Exception):  # what was called has counted its batch
            present.compute([])
        raise
    finally:
        _CURRENT.reset(token)
    present.compute([])


class _Group(NamedTuple):
    """Choices that were computed together."""

    wiring: FreeWiring
    choices: nn.ModuleList
    kept: StructureCache


class Groups:
    """What passes keep of the choices that they compute together; copies begin with nothing."""

    _MOST = 64

    def __init__(self) -> None:
        self._found: dict[Hashable, _Group] = {}
        self._seen: object = None
        self._alone: frozenset[int] = frozenset()

    def __reduce__(self) -> tuple[type[Groups], tuple[()]]:
        return type(self), ()

    def deferrable(self, network: nn.Module, seen: object) -> frozenset[int]:
        """Return the identities of layer choices whose parts with buffers stand nowhere else in a network.

        Args:
            network: Always the same.
            seen: Another object as soon as parts of it have changed.
        """
        if seen is not self._seen:
            times = Counter(states_of(network))
            choices = [module for module in network.modules() if isinstance(module, LayerChoice)]
            alone = (id(choice) for choice in choices if all(times[key] == 1 for key in states_of(choice)))
            self._seen, self._alone = seen, frozenset(alone)
        return self._alone

    def find(
        self, n_inputs: int, entering: Sequence[Sequence[tuple[int, LayerChoice | None]]], joins: tuple[int, ...]
    ) -> _Group:
        """Return the choices that are wired so; where there is none, a state itself is a summand."""
        pairs = tuple(tuple((source, id(choice)) for source, choice in node) for node in entering)
        key = (n_inputs, pairs, joins)
        if key not in self._found:
            if len(self._found) >= self._MOST:
                del self._found[next(iter(self._found))]
            wired = [[(s, LayerChoice([nn.Identity()]) if c is None else c) for s, c in node] for node in entering]
            wiring = FreeWiring(n_inputs, wired, joins)
            # Holding the choices keeps their identities from being given to others.
            self._found[key] = _Group(wiring, nn.ModuleList(wiring.edges), StructureCache())
        return self._found[key]


class Deferral:
    """What is deferred in a pass.

    Args:
        groups: See `deferring`.
        alone: See there.
    """

    def __init__(self, groups: Groups, alone: frozenset[int]) -> None:
        self._groups, self._alone = groups, alone
        self._begin()

    def _begin(self) -> None:
        self._outputs: list[Output] = []
        self._each: list[Callable[[Tensor], Tensor]] = []
        self._sums: list[Deferred] = []
        self._choices: set[int] = set()
        self._inputs: dict[int, tuple[Tensor, int | None]] = {}

    def defer(
        self,
        choice: LayerChoice,
        x: Tensor,
        lay_out_alone: Callable[[Mixture, Tensor], Layout | None],
        compute_alone: Callable[[Tensor], Tensor],
    ) -> Deferred | None:
        """Return what a layer choice gives, to be computed later; None if it is to be computed now.

        Args:
            choice: The layer choice.
            x: What it is called with.
            lay_out_alone: Of mixture and image, how the choice is computed by itself; None if as it is written.
            compute_alone: Computes the choice by itself.
        """
        if id(choice) not in self._alone:
            return None
        if id(choice) in self._choices or len(self._outputs) >= _MOST:
            self.compute([])
        if type(x) is Deferred and (x.value is not None or x.of is not self or self._is_end_of_chain(x)):
            x = settled(x)
        if type(x) is not Deferred and not are_images([x]):
            return None
        mixture = choice.mixture
        layout = None if mixture.straight_through else lay_out_alone(mixture, x)
        if layout is None or layout.shapes[-1] is None or not all(c.branch for c in layout.entering[0][0].candidates):
            return None
        if type(x) is Deferred:
            x.is_read = True
        else:
            self._inputs.setdefault(id(x), (x, _version(x)))
        output = Output(choice, mixture, x)
        self._choices.add(id(choice))
        self._outputs.append(output)
        self._each.append(compute_alone)
        deferred = Deferred([Summand(None, output)], layout.shapes[-1], x.dtype, x.device, self)
        self._sums.append(deferred)
        return deferred

    def _is_end_of_chain(self, x: Deferred) -> bool:
        """Whether it comes from choices that only follow on each other, so that nothing is gained."""
        alone = len(x.summands) == 1 and x.summands[0].weight is None and isinstance(x.summands[0].of, Output)
        return alone and len({id(output.source) for output in self._outputs}) == len(self._outputs)

    def add(self, summands: Sequence[Summand], like: Deferred) -> Deferred:
        """Return a sum to be computed later.

        Args:
            summands: Its parts.
            like: One of its shape.
        """
        self._sums.append(Deferred(summands, like.shape, like.dtype, like.own_device, self))
        return self._sums[-1]

    def reads(self, x: Tensor) -> bool:
        """Return whether a choice that is deferred was called with a tensor."""
        return id(x) in self._inputs

    def compute(self, asked: Sequence[Deferred], *, join: bool = False) -> Tensor | None:
        """Compute all that is deferred: together what is read or went into nothing, or all choices by themselves.

        Args:
            asked: What must not go without a value.
            join: Whether these are wanted side by side along the channels.

        Returns:
            Those, if the kernels made them.
        """
        outputs, each, sums, inputs = self._outputs, self._each, self._sums, self._inputs
        self._begin()
        for x in sums:
            x.of = None
        if not outputs:
            return None
        given = [x for x, _ in inputs.values()]
        if any(_version(x) != version for x, version in inputs.values()):
            raise SpaceError(
                "The input of a choice was changed in place after the choice was called, by code that archgrad could "
                "not see. Search with fast=False."
            )
        wanted = set(map(id, asked))
        if len(outputs) > 1 and are_images(given) and are_finite(given):
            wired = _Wired(given, [x for x in sums if x.is_read or not x.is_part or id(x) in wanted])
            values = self._by_program(wired, given, asked if join else [])
            if values is not None:
                return wired.take(values) if join else wired.take([None, *values])
        for output, compute_alone in zip(outputs, each, strict=True):
            output.value = compute_alone(settled(output.source))
        return None

    def _by_program(self, wired: _Wired, given: Sequence[Tensor], joined: Sequence[Deferred]) -> list[Tensor] | None:
        """Return what is joined, if anything is, and the states after those given; None if the kernels know not all."""
        group = self._groups.find(len(given), wired.entering, tuple(wired.states[id(x)] for x in joined))
        group.kept.look(group.choices)
        known = group.kept.find("known", lambda: known_operations(group.wiring))
        if not known:
            return None
        mixtures = [mixture for node in wired.mixtures for mixture in node]
        kind = (tuple(tuple(mixture.active) for mixture in mixtures), kind_of_pass(given))
        layout = group.kept.find(kind, lambda: lay_out(group.wiring, given, mixtures, known))
        if layout is None:
            return None
        found = native_cell.evaluate(group.wiring, given, mixtures, layout, group.kept, kind)
        as_given = is_channels_last(given[0])
        return None if found is None else [as_written(y, channels_last=as_given) for y in found]


class _Wired:
    """Sums as the nodes of a cell.

    Args:
        given: The tensors that choices were called with.
        sums: In the order in which they were made.

    Attributes:
        states: Identity of a tensor, a sum or an output -> its number among the states.
        entering: For every state after those that are given, source and layer choice of each summand; None for a choice
            where a summand is the source itself.
        mixtures: The mixtures of these.
    """

    def __init__(self, given: Sequence[Tensor], sums: Sequence[Deferred]) -> None:
        self.states = {id(x): number for number, x in enumerate(given)}
        self.entering: list[list[tuple[int, LayerChoice | None]]] = []
        self.mixtures: list[list[Mixture]] = []
        self._given, self._sums = given, sums
        self._by_themselves: list[Output] = []
        self._times = Counter(id(summand.of) for x in sums for summand in x.summands)
        for x in sums:
            edges = [self._edge(summand) for summand in x.summands]
            weight, of = x.summands[0]
            if len(edges) == 1 and weight is None and id(of) in self.states:  # nothing is added
                self.states[id(x)] = self.states[id(of)]
            else:
                self._append(x, edges)

    def take(self, values: Sequence[Tensor | None]) -> Tensor | None:
        """Let sums and outputs have their values.

        Args:
            values: What is joined, or None; and the states after those that are given.

        Returns:
            The first.
        """
        joined, *states = values
        for output in self._by_themselves:
            output.value = states[self.states[id(output)] - len(self._given)]
        for x in self._sums:
            x.value, x.summands = states[self.states[id(x)] - len(self._given)], ()
        return joined

    def _append(self, of: Output | Deferred, edges: Sequence[tuple[int, LayerChoice | None, Mixture]]) -> None:
        self.states[id(of)] = len(self._given) + len(self.entering)
        self.entering.append([(source, choice) for source, choice, _ in edges])
        self.mixtures.append([mixture for _, _, mixture in edges])

    def _edge(self, summand: Summand) -> tuple[int, LayerChoice | None, Mixture]:
        weight, of = summand
        if isinstance(of, Output):
            own = self.states[id(of.source)], of.choice
            if self._times[id(of)] == 1:
                return *own, of.mixture if weight is None else replace(of.mixture, slots=of.mixture.slots * weight)
            if id(of) not in self.states:  # it goes into several sums
                self._by_themselves.append(of)
                self._append(of, [(*own, of.mixture)])
        slots = self._given[0].new_ones(1, 1) if weight is None else weight.reshape(1, 1)
        return self.states[id(of)], None, Mixture(slots, (0,))


def _version(x: Tensor) -> int | None:
    return None if x.is_inference() else x._version
