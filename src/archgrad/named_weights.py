"""The weights of a network by name: where each stands, whose it is, and others in its place for a while."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import cast

from torch import Tensor, nn

from archgrad.choices import LayerChoice

__all__ = ["NamedWeights", "candidates_of"]

Places = list[tuple[dict[str, nn.Parameter], str]]
"""The tables of modules that hold one parameter, each with its name there."""


class NamedWeights:
    """The parameters of a network by the first of their names, in module order.

    The places and not the parameters are kept, since loading a state dict or moving the network may replace them.

    Args:
        network: Any module; it may share parameters between modules.
    """

    def __init__(self, network: nn.Module) -> None:
        self.places: dict[str, Places] = {}
        """Where each parameter stands."""
        names: dict[int, str] = {}
        for prefix, module in network.named_modules():
            for key, parameter in module._parameters.items():
                if parameter is not None:
                    name = names.setdefault(id(parameter), f"{prefix}.{key}" if prefix else key)
                    table = cast("dict[str, nn.Parameter]", module._parameters)
                    self.places.setdefault(name, []).append((table, key))

    @property
    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters by name, without those that are frozen."""
        every = {name: table[key] for name, ((table, key), *_) in self.places.items()}
        return {name: parameter for name, parameter in every.items() if parameter.requires_grad}

    @contextmanager
    def replaced(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """Let the network use other tensors, by name, in the place of its parameters."""
        places = [(table, key, table[key], weights[name]) for name in weights for table, key in self.places[name]]
        try:
            for table, key, _, weight in places:
                table[key] = cast(nn.Parameter, weight)
            yield
        finally:
            for table, key, own, _ in places:
                table[key] = own


def candidates_of(network: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """Return weight -> the innermost candidate that it belongs to, both by name; weights of none are left out."""
    candidates = {
        f"{path}.candidates.{k}." if path else f"candidates.{k}."
        for path, module in network.named_modules()
        if isinstance(module, LayerChoice)
        for k in range(len(module))
    }
    starts = {name: [name[:end] for end in range(len(name), 0, -1) if name[:end] in candidates] for name in names}
    return {name: found[0][:-1] for name, found in starts.items() if found}
