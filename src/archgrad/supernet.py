"""A copy of a space under a relaxation, with its weights and alphas apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from archgrad.alphas import AlphaTable, PassDraw
from archgrad.always_on import AlwaysOn, put_beside
from archgrad.batches import to_channels_last
from archgrad.calling import run_on
from archgrad.choices import AlphaRow, Draw, Mixture, MixtureTable
from archgrad.copying import copied
from archgrad.edge_weights import EdgeWeights
from archgrad.exactness import calls_are_watched
from archgrad.fast import Fast, FastPath, in_order_of_contiguous, is_channels_last
from archgrad.fast.deferred import settled
from archgrad.labels import LabelledChoice, alpha_rows, open_choices
from archgrad.named_weights import NamedWeights, candidates_of
from archgrad.nested import map_tensors, tensors_in
from archgrad.perturbations import Perturbation, Probe
from archgrad.pruned import mix_kept, only, without
from archgrad.relaxation import Relaxation, Softmax
from archgrad.schedules import Progress, value_of

__all__ = ["Supernet"]


class Supernet(nn.Module):
    """A space whose choices are relaxed, so that gradients reach the alphas.

    The space is copied and stays as it is. Alphas start where the relaxation says, by default at 1e-3 N(0, 1).

    Args:
        space: Any module with open choices.
        relaxation: How alphas become mixing weights; `Softmax()` if not given.
        seed: Seeds the alphas and the relaxation's random draws.
        fast: The path to the numbers, which are the same on each: "plain" runs every operation as it is written,
            "native" takes the compiled kernels of the CPU, "torch" PyTorch's operations, "grouped" few large ones, as
            GPUs want them. "auto", or True, takes the usual one of the device; False is "plain".
        edge_weights: How the edges that enter a node of a cell are weighed against each other, with one more row of
            alphas for each node: a relaxation that runs all candidates. None weighs every edge by one.
        always_on: What runs beside the candidates in every pass; nothing if not given.
        activation_checkpointing: Let the backward pass compute the activations of each outermost choice again, instead
            of keeping them: about a third more time for much less memory.

    Raises:
        SpaceError: The space has no choice, or labels in conflict.
        OptionError: The relaxation does not fit a row of alphas, there are no edges to weigh, no choice gets what
            always runs, or there is no such path here.

    Attributes:
        progress: How far the search is, for relaxations and perturbations that change with the epoch; None until the
            search, `search_step` or you set it.
        kept: Label -> numbers of the candidates that are left, ascending, for rows that were pruned.
        memory: What rules of the weights' gradient remember from step to step.
        switched_off: Label -> numbers of the candidates whose mixing weight is 0, ascending; those of the others stay.
        fed_channels_last: Whether images in channels_last that the supernet is given were contiguous until somebody
            laid them out so for it, as loaders of a search do; masks of `nn.Dropout` are then those of contiguous ones.
        settled: Choices that a selection decided for good, in order: what it measured and what it took; plain data.
    """

    def __init__(
        self,
        space: nn.Module,
        relaxation: Relaxation | None = None,
        *,
        seed: int = 0,
        fast: Fast = "auto",
        activation_checkpointing: bool = False,
        edge_weights: Relaxation | None = None,
        always_on: AlwaysOn | None = None,
    ) -> None:
        super().__init__()
        self.network = copied(space)
        self.relaxation = Softmax() if relaxation is None else relaxation
        self.choices = open_choices(self.network)
        """Every choice with its label, nested ones included."""
        self.rows: dict[str, AlphaRow] = alpha_rows(self.choices)
        """What each row of alphas decides between; those of edge weights are no part of it."""
        self.relaxation.check(self.rows)
        self._edges = None if edge_weights is None else EdgeWeights(edge_weights, self.choices)
        self.always_on = always_on
        self._beside = [] if always_on is None else put_beside(always_on, self.choices)
        self.progress: Progress | None = None
        self.kept: dict[str, tuple[int, ...]] = {}
        self.memory: dict[str, dict[str, Tensor]] = {}
        self.switched_off: dict[str, tuple[int, ...]] = {}
        self.settled: list[dict[str, Any]] = []
        self.fed_channels_last = False
        self.generator = torch.Generator().manual_seed(seed)
        """Source of the relaxation's draws; part of what a checkpoint must hold."""
        like = next((p for p in self.network.parameters() if p.is_floating_point()), torch.empty(0))
        first = {label: self.relaxation.initial(row, self.generator) for label, row in self.rows.items()}
        first |= {} if self._edges is None else self._edges.initial(self.generator)
        self.alphas = AlphaTable({label: alpha.to(like) for label, alpha in first.items()})
        """The rows of alphas by label, those of edge weights last."""
        self._table = MixtureTable()
        for entry in self.choices:
            entry.choice.bind(entry.label, self._table)
        self._held: PassDraw | None = None
        self._apart: dict[str, Mixture] | None = None
        self._perturbation: tuple[Perturbation, Probe] | None = None
        self.path = FastPath(self.network, fast)
        """The path that the network runs by."""
        self._named = NamedWeights(self.network)
        for entry in _outermost(self.choices):
            entry.choice.recomputes = activation_checkpointing

    @property
    def recomputes(self) -> bool:
        """Whether passes compute activations again in the backward pass."""
        return any(entry.choice.recomputes for entry in self.choices)

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """The trainable parameters of the network by name, in module order; never an alpha, nor one that is frozen."""
        return self._named.trainable

    @cached_property
    def owners(self) -> dict[str, str]:
        """Weight -> the candidate that it belongs to, the innermost, both by name; other weights are left out."""
        return candidates_of(self.network, self._named.places)

    def other_weights(self, weights: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        """Let forward passes inside use other tensors in the place of weights; backward passes may come later.

        Args:
            weights: By name, of the weights' shapes.
        """
        return self._named.replaced(weights)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the network returns, its choices mixed by one draw of the relaxation."""
        with self.same_draw():
            return self.forward_at(self._mixtures(), *args, **kwargs)

    def _mixtures(self) -> dict[str, Mixture]:
        if self._apart is not None:
            return self._apart
        draw = self._held
        assert draw is not None
        mixtures = self._relaxed(draw.relaxation)
        if self._perturbation is None:
            return mixtures
        perturbation, _ = self._perturbation
        return {
            label: perturbation.apply(mixture, self.rows[label], draw.perturbation[label])
            for label, mixture in mixtures.items()
        }

    def _relaxed(self, draws: Mapping[str, Draw]) -> dict[str, Mixture]:
        relaxation, kept = self.relaxation, self.kept
        return {
            label: mix_kept(relaxation, self.alphas[label], row, draws[label], kept[label])
            if label in kept
            else relaxation.mix(self.alphas[label], row, draws[label])
            for label, row in self.rows.items()
        }

    @torch.no_grad()
    def _draw(self) -> PassDraw:
        draws = {}
        for label, row in self.rows.items():
            alpha, left = self.alphas[label].detach(), self.kept.get(label)
            if left is not None:
                alpha, row = only(alpha, left), row.only(left)
            draws[label] = self.relaxation.draw(alpha, row, self.progress, self.generator)
        edges = {} if self._edges is None else self._edges.draw(self.alphas, self.progress, self.generator)
        beside: Draw = {}
        if self.always_on is not None:
            weight = value_of(self.always_on.weight, self.progress, f"The weight of {type(self.always_on).__name__}")
            beside = {"weight": torch.tensor(weight, dtype=torch.float64)}
        drawn = PassDraw(draws, {}, edges, beside)
        if self._perturbation is None:
            return drawn
        perturbation, probe = self._perturbation
        mixtures = self._relaxed(draws)
        with self.same_draw(drawn):
            moved = perturbation.draw(mixtures, self.rows, self.progress, self.generator, probe)
        return drawn._replace(perturbation=moved)

    @property
    def held_draw(self) -> PassDraw | None:
        """The draw that forward passes share at present; None where each draws its own."""
        return self._held

    @contextmanager
    def same_draw(self, draw: PassDraw | None = None) -> Iterator[None]:
        """Let all forward passes inside share one draw.

        Args:
            draw: The draw; None keeps the one that is shared already, or takes a new one.
        """
        held = self._held if draw is None else draw
        before, self._held = self._held, self._draw() if held is None else held
        try:
            yield
        finally:
            self._held = before

    @property
    def perturbation(self) -> Perturbation | None:
        """The perturbation of the forward passes that run at present."""
        return None if self._perturbation is None else self._perturbation[0]

    @contextmanager
    def perturbed(self, perturbation: Perturbation, probe: Probe) -> Iterator[None]:
        """Let forward passes inside run at perturbed mixing weights.

        Args:
            perturbation: How the mixing weights are moved.
            probe: Evaluates the training loss at other mixing weights.
        """
        before, self._perturbation = self._perturbation, (perturbation, probe)
        try:
            yield
        finally:
            self._perturbation = before

    @property
    def shared_labels(self) -> list[str]:
        """The labels of several choices, which decide together."""
        return [label for label, times in Counter(entry.label for entry in self.choices).items() if times > 1]

    @contextmanager
    def layers_apart(self) -> Iterator[dict[str, list[list[Tensor]]]]:
        """Let each of the choices that decide together be mixed by weights of its own, which begin as the same.

        Forward passes inside share one draw. They use the mixing weights as they are at the time, and no alpha.

        Returns:
            For each label that several choices share, for each of these, the mixing weights of its rows, (n_chosen, K)
            each: leaves that want a gradient.
        """
        shared = self.shared_labels
        with self.same_draw():
            whole = self._completed(self._mixtures())
        mixtures = {label: replace(mixture, slots=mixture.slots.detach()) for label, mixture in whole.items()}
        apart: dict[str, list[list[Tensor]]] = {}
        before, self._apart = self._apart, mixtures
        try:
            for entry in self.choices:
                if entry.label in shared:
                    own = f"{entry.label} of {entry.path}"
                    entry.choice.bind(own, self._table)
                    rows = list(zip(entry.choice.rows(entry.label), entry.choice.rows(own), strict=True))
                    for row, mine in rows:
                        slots = mixtures[row].slots.clone().requires_grad_()
                        mixtures[mine] = replace(mixtures[row], slots=slots)
                    apart.setdefault(entry.label, []).append([mixtures[mine].slots for _, mine in rows])
            yield apart
        finally:
            self._apart = before
            for entry in self.choices:
                entry.choice.bind(entry.label, self._table)

    def forward_at(self, mixtures: Mapping[str, Mixture], *args: Any, **kwargs: Any) -> Any:
        """Return what the network returns under given mixtures of the candidates, by label.

        What always runs and edge weights come on top, as in the draw that forward passes share at present, or in one of
        their own.
        """
        if mixtures is not self._apart:
            mixtures = self._completed(mixtures)
        self.path.fit(next(iter(self.alphas.values())).device)
        in_format = self.channels_last and not (self._draws_otherwise(args) or self._draws_otherwise(kwargs))
        if in_format:
            args, kwargs = map_tensors((args, kwargs), to_channels_last)
        elif self.fed_channels_last and self.path.draws_masks:
            args, kwargs = map_tensors((args, kwargs), Tensor.contiguous)
        self._table.current = mixtures
        try:
            with self._deferring(in_format), in_order_of_contiguous(in_format):
                alone = len(args) == 1 and not kwargs
                outputs = run_on(self.network, args[0]) if alone else self.network(*args, **kwargs)
        finally:
            self._table.current = {}
        return map_tensors(outputs, _contiguous) if in_format else outputs

    def _draws_otherwise(self, given: Any) -> bool:
        """Whether the plain path would draw masks in another order than that of contiguous images."""
        if self.fed_channels_last or not self.path.draws_masks:
            return False
        return any(map(is_channels_last, tensors_in(given)))

    def _deferring(self, in_format: bool) -> AbstractContextManager[None]:
        """What lets layer choices that a pass runs be computed together, unless activations are computed again."""
        return self.path.deferring() if in_format and not self.recomputes else nullcontext()

    def _completed(self, mixtures: Mapping[str, Mixture]) -> dict[str, Mixture]:
        """Return the mixtures without what is switched off, with what always runs, times the weights of their edges."""
        off = self.switched_off
        found = {label: without(mix, off[label]) if label in off else mix for label, mix in mixtures.items()}
        if self._edges is None and self.always_on is None:
            return found
        with self.same_draw():
            draw = self._held
        assert draw is not None
        for label in self._beside:
            found[label] = found[label].beside(draw.always_on["weight"])
        return found if self._edges is None else self._edges.weigh(found, self.alphas, draw.edges)

    @contextmanager
    def without(self, candidates: Mapping[str, Sequence[int]]) -> Iterator[None]:
        """Let candidates, by label, have the mixing weight 0 inside, while the weights of the others stay."""
        before = self.switched_off
        self.switched_off = before | {
            label: tuple(sorted({*before.get(label, ()), *places})) for label, places in candidates.items()
        }
        try:
            yield
        finally:
            self.switched_off = before

    @property
    def channels_last(self) -> bool:
        """Whether forward passes bring images to channels_last, which the network as it is now is known to take."""
        if calls_are_watched() or not self.path.accepts_channels_last():
            return False
        return not (self.path.draws_masks and self.recomputes)  # passes within passes would draw in another order

    def probabilities(self) -> dict[str, list[float]]:
        """Return for each row the probability that each candidate is chosen; 0 for what was pruned."""
        with torch.no_grad():
            return {label: self._probabilities(label).tolist() for label in self.rows}

    def edge_probabilities(self) -> dict[str, list[float]]:
        """Return for each node the weights of its edges, by source; empty without edge weights."""
        return {} if self._edges is None else self._edges.probabilities(self.alphas)

    @property
    def edge_weights(self) -> Relaxation | None:
        """How the edges of a node are weighed against each other."""
        return None if self._edges is None else self._edges.relaxation

    @property
    def nodes(self) -> Mapping[str, tuple[str, ...]]:
        """Name of the row of a node's edge weights -> the rows of its edges, by source; empty without edge weights."""
        return {} if self._edges is None else self._edges.edges

    def _probabilities(self, label: str) -> Tensor:
        alpha, row, left = self.alphas[label].double(), self.rows[label], self.kept.get(label)
        if left is None:
            return self.relaxation.probabilities(alpha, row)
        chosen = self.relaxation.probabilities(only(alpha, left), row.only(left))
        return torch.zeros_like(alpha).index_copy_(0, torch.tensor(left, device=alpha.device), chosen)

    def open_rows(self) -> tuple[dict[str, Tensor], dict[str, AlphaRow]]:
        """Return the alphas and rows of the candidates that still compete, by label; without those of edge weights."""
        kept = self.kept
        every = {label: self.alphas[label] for label in self.rows}
        alphas = {label: only(alpha, kept[label]) if label in kept else alpha for label, alpha in every.items()}
        return alphas, {label: row.only(kept[label]) if label in kept else row for label, row in self.rows.items()}

    def prune(self, keep: int, scores: Mapping[str, Sequence[float]]) -> None:
        """Leave the best candidates of each row; the others do not run any more. A row keeps at least what it chooses.

        Args:
            keep: Candidates that are left on each row, at least 1; rows that have fewer stay as they are.
            scores: By label, one a candidate; of equals the first stays.
        """
        for label, row in self.rows.items():
            left = self.kept.get(label, tuple(range(len(row.names))))
            best = sorted(left, key=lambda k: -scores[label][k])[: max(keep, row.n_chosen)]
            if len(best) < len(row.names):
                self.kept[label] = tuple(sorted(best))


def _contiguous(x: Tensor) -> Tensor:
    x = settled(x)
    return x.contiguous() if x.dim() == 4 else x


def _outermost(choices: list[LabelledChoice]) -> list[LabelledChoice]:
    """Return the choices that stand in no other choice."""
    inner = {id(part) for entry in choices for part in entry.choice.modules() if part is not entry.choice}
    return [entry for entry in choices if id(entry.choice) not in inner]
