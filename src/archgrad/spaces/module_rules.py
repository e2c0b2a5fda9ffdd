"""What may stand in the place of a layer that a model has: one rule a kind of candidate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass

from torch import Tensor, nn

from archgrad.checks import is_whole
from archgrad.errors import SpaceError
from archgrad.json_text import shown
from archgrad.spaces.factored import keeps_size, low_rank, separable, with_kernel, with_open_kernel
from archgrad.spaces.layer_places import CONVOLUTIONS, LayerPlace, Where

__all__ = ["Bottleneck", "Candidate", "DepthwiseSeparable", "Kernels", "LayerRule", "OpenKernels", "Skip"]


@dataclass(frozen=True)
class LayerRule(ABC):
    """Says what may stand in the place of a layer, beside the layer itself. A rule of your own is a subclass."""

    _: KW_ONLY
    at: Where = CONVOLUTIONS
    """Which layers it is asked about: a class, a pattern of their paths ("layer1.*.conv2"), a function of
    (path, layer), or a list of these."""

    @abstractmethod
    def candidates(self, place: LayerPlace) -> Mapping[str, nn.Module]:
        """Return new modules by name that take the layer's inputs and give outputs of its shapes; {} where none fits.

        Args:
            place: Has the `layer`, which stays as it is, its `path`, and `conv`, the layer if it is a convolution.
        """

    def opened(self, place: LayerPlace, label: str) -> nn.Module | None:
        """Return the layer with numbers that are open, which takes the place of "original"; by default None.

        Args:
            place: See `candidates`.
            label: Of the layer; choices in what is returned are called "LABEL/...".
        """
        return None


@dataclass(frozen=True)
class Kernels(LayerRule):
    """Convolutions with other kernels, called "kernel5": the centre of the layer's own, or that with zeros around.

    Sizes count in the dimensions in which the layer's own kernel is larger than 1, so that a pointwise convolution has
    none, and one of (1, 7) may become (1, 5). Odd sizes fit odd kernels, even ones even; the padding goes along.
    """

    sizes: tuple[int, ...] = (3, 5)
    """Sizes of kernels, at least 1 each."""

    def __post_init__(self) -> None:
        """Check the sizes."""
        _check_sizes(self, self.sizes)

    def candidates(self, place: LayerPlace) -> Mapping[str, nn.Module]:
        """Return a convolution for each size that fits."""
        made = {f"kernel{size}": with_kernel(place.conv, size) for size in self.sizes if place.conv is not None}
        return {name: layer for name, layer in made.items() if layer is not None}


@dataclass(frozen=True)
class OpenKernels(LayerRule):
    """An open kernel size, a `ValueChoice` called "PATH/kernel": all sizes share the weights of the largest.

    What fits is as for `Kernels`. The layer runs once whatever the number of sizes, with the mixed kernel. The choice
    is another than that between the layer and what other rules put in its place.
    """

    sizes: tuple[int, ...] = (3, 5)
    """Sizes of kernels, at least 1 each; the layer's own is added."""

    def __post_init__(self) -> None:
        """Check the sizes."""
        _check_sizes(self, self.sizes)

    def candidates(self, place: LayerPlace) -> Mapping[str, nn.Module]:
        """Return nothing."""
        return {}

    def opened(self, place: LayerPlace, label: str) -> nn.Module | None:
        """Return the convolution with an open kernel, where another size fits."""
        return None if place.conv is None else with_open_kernel(place.conv, self.sizes, f"{label}/kernel")


def _check_sizes(rule: LayerRule, sizes: tuple[int, ...]) -> None:
    if not isinstance(sizes, tuple | list) or not sizes or not all(is_whole(size, least=1) for size in sizes):
        raise SpaceError(
            f"{type(rule).__name__} needs whole sizes of at least 1, such as (3, 5), but got {shown(sizes)}."
        )
    if len(set(sizes)) < len(sizes):
        raise SpaceError(f"{type(rule).__name__} needs different sizes, but got {shown(sizes)}.")


@dataclass(frozen=True)
class DepthwiseSeparable(LayerRule):
    """A depthwise and a pointwise convolution, called "separable", whose product is nearest to the layer's weight."""

    def candidates(self, place: LayerPlace) -> Mapping[str, nn.Module]:
        """Return the two in a sequence; nothing for a pointwise or depthwise layer."""
        made = None if place.conv is None else separable(place.conv)
        return {} if made is None else {"separable": made}


@dataclass(frozen=True)
class Bottleneck(LayerRule):
    """A convolution to few channels and a pointwise one from them, called "bottleneck0.25", nearest to the weight."""

    ratio: float = 0.25
    """Inner channels as a share of the output's, above 0 and below 1."""

    def __post_init__(self) -> None:
        """Check the ratio."""
        if not isinstance(self.ratio, float) or not 0 < self.ratio < 1:
            raise SpaceError(f"Bottleneck needs 0 < ratio < 1, but got ratio={shown(self.ratio)}.")

    def candidates(self, place: LayerPlace) -> Mapping[str, nn.Module]:
        """Return the two in a sequence; nothing where they have no fewer weights than the layer."""
        made = None if place.conv is None else low_rank(place.conv, self.ratio)
        return {} if made is None else {f"bottleneck{self.ratio}": made}


class Copied(nn.Module):
    """The input, as a tensor of its own, as every layer returns one: what follows may work in place."""

    def forward(self, x: Tensor) -> Tensor:
        """Return a copy of `x`."""
        return x.clone()


@dataclass(frozen=True)
class Skip(LayerRule):
    """Nothing in the layer's place, called "skip", where its output has the shape of its input.

    Of convolutions that is known. Of other layers and blocks (`at=BasicBlock`) a batch must show it (`from_module`'s
    `batch`): every call takes one tensor alone and returns one of equal shape.
    """

    def candidates(self, place: LayerPlace) -> Mapping[str, nn.Module]:
        """Return a module that copies its input, where that fits."""
        if place.conv is None and place.keeps_shape is None:
            raise SpaceError(
                f"Whether '{place.path}' ({type(place.layer).__name__}) may be skipped is only known from a batch. "
                f"Give from_module batch=..., a tensor as the model takes it, or Skip(at=...) convolutions alone."
            )
        fits = place.keeps_shape is not False and (place.conv is None or keeps_size(place.conv))
        return {"skip": Copied()} if fits else {}


@dataclass(frozen=True)
class Candidate(LayerRule):
    """A layer of your own: `Candidate("gelu", lambda layer: nn.GELU(), at=nn.ReLU)`."""

    name: str
    """Of the candidate."""
    build: Callable[[nn.Module], nn.Module | None]
    """Builds it from the layer, which stays as it is; None where it does not fit."""

    def candidates(self, place: LayerPlace) -> Mapping[str, nn.Module]:
        """Return what `build` returns."""
        made = self.build(place.layer)
        return {} if made is None else {self.name: made}
