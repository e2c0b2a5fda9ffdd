"""A copy of a space under a relaxation, with its weights and alphas apart."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from archgrad.batches import to_channels_last
from archgrad.choices import AlphaRow, Mixture, MixtureTable
from archgrad.errors import SpaceError
from archgrad.fast import accelerate, accepts_channels_last
from archgrad.labels import LabelledChoice, alpha_rows, label_choices
from archgrad.nested import map_tensors
from archgrad.relaxation import Relaxation, Softmax

__all__ = ["AlphaTable", "Supernet"]


class AlphaTable(nn.Module, Mapping[str, nn.Parameter]):
    """The alphas by label; a mapping to read and a module to save. In the state dict "." in a label reads "/"."""

    __hash__ = nn.Module.__hash__
    __eq__ = object.__eq__

    def __init__(self, rows: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._key = {label: label.replace(".", "/") for label in rows}
        for label, row in rows.items():
            # Past register_parameter, which refuses names that a module has as attributes ("keys", "train").
            self._parameters[self._key[label]] = nn.Parameter(row)

    def __getitem__(self, label: str) -> nn.Parameter:
        parameter = self._parameters[self._key[label]]
        assert parameter is not None
        return parameter

    def __iter__(self) -> Iterator[str]:
        return iter(self._key)

    def __len__(self) -> int:
        return len(self._key)


class Supernet(nn.Module):
    """A space whose choices are relaxed, so that gradients reach the alphas.

    The space is copied and stays as it is. Alphas start at 1e-3 N(0, 1).

    Args:
        space: Any module with open choices.
        relaxation: How alphas become mixing weights; `Softmax()` if not given.
        seed: Seeds the alphas and the relaxation's random draws.
        fast: Compute the same numbers the fast way (see `archgrad.fast`); False runs every operation as it is written.
        activation_checkpointing: Let the backward pass compute the activations of each outermost choice again, instead
            of keeping them: about a third more time for much less memory.

    Raises:
        SpaceError: The space has no choice, or labels in conflict.
    """

    def __init__(
        self,
        space: nn.Module,
        relaxation: Relaxation | None = None,
        *,
        seed: int = 0,
        fast: bool = True,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.network = copy.deepcopy(space)
        self.relaxation = Softmax() if relaxation is None else relaxation
        self.choices = label_choices(self.network)
        """Every choice with its label, nested ones included."""
        if not self.choices:
            remedy = "Build it with stage='search'" if hasattr(space, "sized_for") else "Put a LayerChoice in it"
            raise SpaceError(f"{type(space).__name__} has no open choice to search. {remedy}.")
        self.rows: dict[str, AlphaRow] = alpha_rows(self.choices)
        """What each row of alphas decides between."""
        self.generator = torch.Generator().manual_seed(seed)
        """Source of the relaxation's draws; part of what a checkpoint must hold."""
        like = next((p for p in self.network.parameters() if p.is_floating_point()), torch.empty(0))
        self.alphas = AlphaTable(
            {
                label: (1e-3 * torch.randn(len(row.names), generator=self.generator, dtype=torch.float64)).to(like)
                for label, row in self.rows.items()
            }
        )
        self._table = MixtureTable()
        for entry in self.choices:
            entry.choice.bind(entry.label, self._table)
        self._held: Mapping[str, Tensor | None] | None = None
        self.channels_last = fast and accepts_channels_last(self.network)
        """Whether forward passes bring images to channels_last, which the network is known to take."""
        self._owners = _owners(self.network)
        if fast:
            accelerate(self.network)
        for entry in _outermost(self.choices):
            entry.choice.recomputes = activation_checkpointing

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """The trainable parameters of the network by name, in module order; never an alpha, nor one that is frozen."""
        every = {name: owner[key] for name, ((owner, key), *_) in self._owners.items()}
        return {name: parameter for name, parameter in every.items() if parameter.requires_grad}

    @contextmanager
    def other_weights(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """Let forward passes inside use other tensors in the place of weights; backward passes may come later.

        Args:
            weights: By name, of the weights' shapes.
        """
        places = [(owner, key, owner[key], weights[name]) for name in weights for owner, key in self._owners[name]]
        try:
            for owner, key, _, weight in places:
                owner[key] = cast(nn.Parameter, weight)
            yield
        finally:
            for owner, key, own, _ in places:
                owner[key] = own

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the network returns, its choices mixed by one draw of the relaxation."""
        if self.channels_last:
            args, kwargs = map_tensors((args, kwargs), to_channels_last)
        self._table.current = self._mixtures()
        try:
            return self.network(*args, **kwargs)
        finally:
            self._table.current = {}

    def _mixtures(self) -> dict[str, Mixture]:
        noise = self._draw() if self._held is None else self._held
        return {label: self.relaxation.mix(self.alphas[label], row, noise[label]) for label, row in self.rows.items()}

    def _draw(self) -> dict[str, Tensor | None]:
        return {label: self.relaxation.draw(row, self.generator) for label, row in self.rows.items()}

    @property
    def held_draw(self) -> Mapping[str, Tensor | None] | None:
        """The draw by row that forward passes share at present; None where each draws its own."""
        return self._held

    @contextmanager
    def same_draw(self, draw: Mapping[str, Tensor | None] | None = None) -> Iterator[None]:
        """Let all forward passes inside share one draw of the relaxation.

        Args:
            draw: The draw by row; None keeps the one that is shared already, or takes a new one.
        """
        held = self._held if draw is None else draw
        before, self._held = self._held, self._draw() if held is None else held
        try:
            yield
        finally:
            self._held = before

    def probabilities(self) -> dict[str, list[float]]:
        """Return for each row the probability that each candidate is chosen."""
        with torch.no_grad():
            return {
                label: self.relaxation.probabilities(self.alphas[label].double(), row).tolist()
                for label, row in self.rows.items()
            }


Owners = list[tuple[dict[str, nn.Parameter], str]]
"""The tables of modules that hold one parameter, each with its name there."""


def _owners(network: nn.Module) -> dict[str, Owners]:
    """Return for each parameter, by the first of its names, where it stands.

    The places and not the parameter are kept, since loading a state dict or moving the network may replace parameters.
    """
    found: dict[str, Owners] = {}
    names: dict[int, str] = {}
    for prefix, module in network.named_modules():
        for key, parameter in module._parameters.items():
            if parameter is not None:
                name = names.setdefault(id(parameter), f"{prefix}.{key}" if prefix else key)
                found.setdefault(name, []).append((cast("dict[str, nn.Parameter]", module._parameters), key))
    return found


def _outermost(choices: list[LabelledChoice]) -> list[LabelledChoice]:
    """Return the choices that stand in no other choice."""
    inner = {id(part) for entry in choices for part in entry.choice.modules() if part is not entry.choice}
    return [entry for entry in choices if id(entry.choice) not in inner]
