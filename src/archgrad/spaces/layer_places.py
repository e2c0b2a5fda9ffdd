"""The layers of a model that may become choices: which there are, how they are called, and which must stay."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from archgrad.cell import Cell
from archgrad.choices import Choice
from archgrad.errors import SpaceError
from archgrad.exactness import as_defined, is_exactly, is_hooked
from archgrad.json_text import shown
from archgrad.valued import ValuedModule

__all__ = ["CONVOLUTIONS", "LayerPlace", "Where", "is_at", "layer_places", "watch"]

Where: TypeAlias = (
    "type[nn.Module] | str | Callable[[str, nn.Module], bool] | Sequence[type[nn.Module] | str | Callable[..., bool]]"
)
"""Which layers: a class, a pattern of their paths ("layer1.*.conv2"), a function of (path, layer), or several."""

CONVOLUTIONS = as_defined(nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass
class LayerPlace:
    """A layer of a model, and what is known of it."""

    path: str
    """As in `Module.named_modules`, the first if it stands at several."""
    layer: nn.Module
    shares_with: str | None = None
    """Path of another layer that has one of its parameters too; None if there is none."""
    calls: list[bool] | None = field(default=None)
    """For each call with the batch, whether it took one tensor alone and gave one of equal shape; None if not known."""

    @property
    def conv(self) -> Any:
        """The layer if it is a convolution of `torch.nn` itself with the weights of one, else None."""
        return self.layer if is_exactly(self.layer, *CONVOLUTIONS) and self._has_own_weights else None

    @property
    def _has_own_weights(self) -> bool:
        """Whether a convolution has weight and bias, and nothing that code elsewhere computes them from."""
        tensors = {**self.layer._parameters, **self.layer._buffers}
        return tensors.keys() == {"weight", "bias"} and tensors["weight"] is not None

    @property
    def keeps_shape(self) -> bool | None:
        """Whether all calls with the batch gave the shape of their input; None without a batch."""
        return None if self.calls is None else bool(self.calls) and all(self.calls)

    @property
    def left_because(self) -> str | None:
        """Why it must stay as it is; None if it need not."""
        if is_parametrized(self.layer):
            return "has parametrizations"
        if is_hooked(self.layer):
            return "has hooks"
        if isinstance(self.layer, CONVOLUTIONS) and self.conv is None:
            kind = type(self.layer)
            if kind not in CONVOLUTIONS:
                return f"is a {kind.__name__}, with its own rules"
            return "has a forward of its own" if self._has_own_weights else "has other weights than its class"
        if self.shares_with is not None:
            return f"shares a parameter with '{self.shares_with}'"
        return "is not called" if self.calls is not None and not self.calls else None


def layer_places(model: nn.Module) -> list[LayerPlace]:
    """Return every layer and block of a model, each instance once; what is a choice already, and in it, is left out."""
    places = [LayerPlace(path, layer) for path, layer in _below(model, "", set())]
    owners: dict[int, list[LayerPlace]] = {}
    for place in places:
        for parameter in place.layer.parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(place)
    for sharing in owners.values():
        for place, other in zip(sharing, [*sharing[1:], sharing[0]], strict=True):
            if other is not place:
                place.shares_with = other.path
    return places


def _below(layer: nn.Module, path: str, seen: set[int]) -> Iterator[tuple[str, nn.Module]]:
    if id(layer) in seen or isinstance(layer, Choice | Cell | ValuedModule):
        return
    seen.add(id(layer))
    yield path, layer
    if isinstance(layer, nn.MultiheadAttention):
        return  # it reads the weights of its parts itself
    for name, child in layer.named_children():
        yield from _below(child, f"{path}.{name}".lstrip("."), seen)


def is_at(where: Where, path: str, layer: nn.Module) -> bool:
    """Return whether a layer is one of those that `where` says.

    Raises:
        SpaceError: `where` is of another kind.
    """
    if isinstance(where, type) and issubclass(where, nn.Module):
        return isinstance(layer, where)
    if isinstance(where, str):
        return fnmatchcase(path, where)
    if callable(where) and not isinstance(where, type):
        return bool(where(path, layer))
    if isinstance(where, Sequence):
        return any(is_at(one, path, layer) for one in where)
    raise SpaceError(
        f"Layers are chosen by a class, a pattern of paths such as 'layer1.*', a function of (path, layer), or a list "
        f"of these, but got at={shown(where)}."
    )


def watch(places: Sequence[LayerPlace], run: Callable[[], Any]) -> Any:
    """Return what `run` does, and note for each place how it was called meanwhile."""
    handles = []
    try:
        for place in places:
            place.calls = []
            handles.append(place.layer.register_forward_hook(_note(place.calls), with_kwargs=True))
        return run()
    finally:
        for handle in handles:
            handle.remove()


def _note(calls: list[bool]) -> Callable[..., None]:
    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        alone = len(args) == 1 and not kwargs and isinstance(args[0], Tensor) and isinstance(output, torch.Tensor)
        calls.append(alone and args[0].shape == output.shape and args[0].dtype == output.dtype)

    return note
