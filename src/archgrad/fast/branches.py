"""What an operation consists of, said once: the layers that its input goes through, found by structure.

An operation is *known* if it is one of the forms below, whatever its class: a layer, a sequence, or a module of a
person's own whose code says no more than which part follows which (`dataflow`). Where a part was replaced, set
otherwise, hooked, parametrized or has a `forward` of its own, nothing is known, and the operation runs as it is
written.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice
from typing import Literal, NamedTuple, TypeAlias, cast

from torch import nn

from archgrad.added_noise import AddedNoise, noise_of
from archgrad.exactness import (
    as_defined,
    computes_by,
    is_exactly,
    is_exactly_but_hooked,
    kind_of,
    names_in_place,
)
from archgrad.fast.batch_norms import uses_batch
from archgrad.fast.biases import TwoGrids, behind, is_behind, modules_of
from archgrad.fast.dataflow import Either, Input, Joined, Part, Relu, Relu6, Shifted, Sum, Value, read_forward
from archgrad.fast.depthwise import Geometry
from archgrad.fast.recognise import (
    NORMS,
    POOLS,
    as_wide,
    is_clamped_as_defined,
    is_convolution,
    is_half,
    is_norm_of,
    is_pointwise,
    is_pool,
    is_zero,
    pool_settings,
    pooled_size,
)
from archgrad.isolation import is_in_place
from archgrad.operations import DilConv, FactorizedReduce, PoolBN, ReLUConvBN, SepConv, Zero

__all__ = ["Branch", "Form", "Layer", "Shape", "branch_of", "noisy_branch_of", "output_size", "part_at"]

Form = Literal[
    "identity", "zero", "pool", "pool-norm", "reduction", "convolution", "depthwise", "separable", "stages", "inverted"
]


class Residual(NamedTuple):
    """Layers to whose output their input is added."""

    layers: tuple[Layer, ...]


Layer: TypeAlias = nn.Module | TwoGrids | Residual
Shape: TypeAlias = tuple[int, ...]


class Branch(NamedTuple):
    """A known operation."""

    operation: nn.Module
    form: Form
    layers: tuple[Layer, ...]
    """What the input goes through, between `relu_before` and `relu_behind`: nothing; a Zero; a pool; a pool and a
    BatchNorm; TwoGrids and a BatchNorm; or any convolution ("convolution"), or a depthwise and a pointwise one
    ("depthwise"), and a BatchNorm; or twice the latter with a ReLU between ("separable"), or any several of these with
    ReLUs between ("stages"); or a pointwise, a depthwise, a pointwise convolution, each with a BatchNorm behind it, and
    between them ReLU or ReLU6 ("inverted", of which the first convolution may be missing with what follows it)."""
    relu_before: bool = False
    """Whether its input goes through a ReLU first."""
    relu_behind: bool = False
    """Whether its output goes through a ReLU."""
    writes_to_input: bool = False
    """Whether calling it changes its input, unless that is given as a copy, as candidates' inputs are."""
    is_residual: bool = False
    """Whether its input is added to what the layers give."""
    needs_even: bool = False
    """Whether it takes images of even height and width only."""
    noise: AddedNoise | None = None
    """What calling it adds to its output beside."""

    @property
    def is_projection(self) -> bool:
        """Whether it ends in a pointwise convolution and a BatchNorm, and perhaps a ReLU."""
        if self.is_residual:
            return False
        if self.form == "convolution":
            return is_pointwise(cast(nn.Conv2d, self.layers[0]))
        return self.form in ("reduction", "depthwise", "separable")

    @property
    def stages(self) -> list[tuple[Layer, ...]]:
        """The layers between its ReLUs."""
        found: list[list[Layer]] = [[]]
        for layer in self.layers:
            if isinstance(layer, nn.ReLU):
                found.append([])
            else:
                found[-1].append(layer)
        return list(map(tuple, found))

    @property
    def norms(self) -> list[nn.BatchNorm2d]:
        """Its BatchNorms."""
        return [layer for layer in self.layers if isinstance(layer, nn.BatchNorm2d)]

    def biased(self) -> list[nn.Conv2d]:
        """Return the convolutions that have a bias."""
        modules = [module for layer in self.layers for module in modules_of(cast("nn.Module | TwoGrids", layer))]
        return [module for module in modules if isinstance(module, nn.Conv2d) and module.bias is not None]

    def biases_cancel(self) -> bool:
        """Return whether each BatchNorm behind a bias normalises with the statistics of the batch."""
        return all(uses_batch(cast(nn.BatchNorm2d, layer)) for layer in self.layers if is_behind(layer))

    @property
    def wide(self) -> Geometry | None:
        """The geometry of its dense convolution of several pixels; None if the compiled kernels do not compute it."""
        is_dense = self.form == "convolution" and not self.is_residual
        return as_wide(cast(nn.Conv2d, self.layers[0])) if is_dense else None


_BETWEEN: dict[str, Form] = {
    **{"cn": "convolution", "dn": "convolution", "pn": "convolution"},
    **{"dpn": "depthwise", "dpnrdpn": "separable"},
}
"""Forms that may have a ReLU before and behind."""
_FORMS: dict[str, Form] = {
    **{"": "identity", "z": "zero", "m": "pool", "mn": "pool-norm", "rhn": "reduction"},
    **{f"{before}{core}{behind}": _BETWEEN[core] for core in _BETWEEN for before in ("", "r") for behind in ("", "r")},
    **{"pnrdnrpn": "inverted", "pnsdnspn": "inverted", "dnrpn": "inverted", "dnspn": "inverted"},
}
_RESIDUAL: tuple[Form, ...] = ("convolution", "depthwise", "separable", "stages", "inverted")
"""Forms to whose output their input may be added."""
_STAGES = re.compile("r?(?:(?:c|d|p|dp)nr)+(?:c|d|p|dp)nr?")
"""Of the form "stages", if it is no other."""
_LETTERS: dict[type[nn.Module], str] = {
    **{nn.Identity: "?", nn.ReLU: "r", nn.ReLU6: "s", nn.Conv2d: "c", Zero: "z"},
    **dict.fromkeys(POOLS, "m"),
    **dict.fromkeys(NORMS, "n"),
}
"""The layers that a chain is made of; an Identity among them stands for a shift."""
_RELU, _RELU6, _SHIFT = nn.ReLU(), nn.ReLU6(), nn.Identity()
"""What stands in a chain for a ReLU or ReLU6 by a function, and for the pixels after the first row and column."""

as_defined(nn.Identity, nn.ReLU, nn.ReLU6, nn.Conv2d, nn.Sequential)
as_defined(Zero, PoolBN, ReLUConvBN, DilConv, SepConv, FactorizedReduce)


def branch_of(operation: nn.Module) -> Branch | None:
    """Return what an operation consists of; None if it is not known, and must be called."""
    if is_exactly(operation, FactorizedReduce):
        chain, needs_even = _reduction(operation), False  # it pads odd images
    else:
        chain, needs_even = _chain_of(operation), True
    return None if chain is None else _as_branch(operation, chain, needs_even=needs_even)


def noisy_branch_of(operation: nn.Module) -> Branch | None:
    """Return what a skip connection consists of to whose output noise is added, and nothing else done."""
    kind, noise = kind_of(operation), noise_of(operation)
    if noise is None or kind not in (nn.Identity, FactorizedReduce) or not is_exactly_but_hooked(operation, kind):
        return None
    chain = [] if kind is nn.Identity else _reduction(operation)
    branch = None if chain is None else _as_branch(operation, chain, needs_even=False)
    return None if branch is None else branch._replace(noise=noise)


def _as_branch(operation: nn.Module, chain: Sequence[Layer], *, needs_even: bool) -> Branch | None:
    layers, is_residual = tuple(chain), False
    if len(layers) == 1 and isinstance(layers[0], Residual):
        layers, is_residual = layers[0].layers, True
    letters = "".join(map(_letter, layers))
    form = _FORMS.get(letters, "stages" if _STAGES.fullmatch(letters) else None)
    if form is None or not _fits_together(layers):
        return None
    relu_before, relu_behind = letters.startswith("r"), letters.endswith("r")
    writes_to_input = relu_before and is_in_place(cast(nn.Module, layers[0]))
    if is_residual and (writes_to_input or form not in _RESIDUAL):  # to what is added then
        return None
    return Branch(
        operation,
        form,
        _knowing_biases(layers[relu_before : len(layers) - relu_behind]),
        relu_before=relu_before,
        relu_behind=relu_behind,
        writes_to_input=writes_to_input,
        is_residual=is_residual,
        needs_even=needs_even and form == "reduction",
    )


def _knowing_biases(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """The same with BatchNorms that know the biases of the convolutions before them."""
    found: list[Layer] = []
    before: list[nn.Conv2d | TwoGrids] = []
    for layer in layers:
        if isinstance(layer, nn.Conv2d | TwoGrids):
            before.append(layer)
        elif isinstance(layer, nn.BatchNorm2d):
            layer, before = behind(layer, before), []
        found.append(layer)
    return tuple(found)


def _chain_of(module: nn.Module | None) -> list[Layer] | None:
    if module is None:
        return None
    kind = kind_of(module)
    if kind in _LETTERS:
        known = is_exactly(module, kind)
        return None if not known else [] if kind is nn.Identity else [module]
    if kind.__module__.startswith("torch.") and kind is not nn.Sequential:
        return None
    in_order = computes_by(kind, nn.Sequential)
    value = read_forward(kind.forward) if not in_order and computes_by(kind, nn.Module) else None
    if (not in_order and value is None) or not is_exactly(module, *as_defined(kind)) or not names_in_place():
        return None
    return _joined_end_to_end(list(module._modules.values())) if value is None else _follow(module, value)


def _joined_end_to_end(parts: Sequence[nn.Module | None]) -> list[Layer] | None:
    chain: list[Layer] = []
    for part in parts:
        layers = _chain_of(part)
        if layers is None:
            return None
        chain += layers
    return chain


def _follow(module: nn.Module, value: Value) -> list[Layer] | None:
    """What the input has gone through at a value of the module's forward."""
    match value:
        case Input():
            return []
        case Relu(x):
            before, layers = _follow(module, x), cast("list[Layer] | None", [_RELU])
        case Relu6(x):
            before, layers = _follow(module, x), [_RELU6]
        case Shifted(x):
            before, layers = _follow(module, x), [_SHIFT]
        case Part(path, x):
            before, layers = _follow(module, x), _chain_of(part_at(module, path))
        case Either(flag, yes, no):
            decided = None if hasattr(type(module), flag) else module.__dict__.get(flag)
            return _follow(module, yes if decided else no) if isinstance(decided, bool) else None
        case Sum(first, second):
            one, two = _follow(module, first), _follow(module, second)
            if one is None or two is None or bool(one) == bool(two):
                return None
            return [Residual(tuple(one or two))]
        case Joined(first, second):
            one, two = _follow(module, first), _follow(module, second)
            if not one or not two or one[:-1] != two[:-2] or two[-2:-1] != [_SHIFT]:
                return None
            if not all(is_exactly(half, nn.Conv2d) for half in (one[-1], two[-1])):
                return None
            return [*one[:-1], TwoGrids(*cast("list[nn.Conv2d]", [one[-1], two[-1]]))]
    return None if before is None or layers is None else before + layers


def part_at(module: nn.Module, path: Sequence[str | int]) -> nn.Module | None:
    """Return the part that code finds by these names, and these numbers of parts of lists and sequences."""
    found: nn.Module | None = module
    for key in path:
        if found is None or not computes_by(type(found), nn.Module):
            return None
        found = _part_number(found, key) if isinstance(key, int) else _part_named(found, key)
    return found


def _part_named(module: nn.Module, name: str) -> nn.Module | None:
    return None if name in module.__dict__ or hasattr(type(module), name) else module._modules.get(name)


def _part_number(module: nn.Module, number: int) -> nn.Module | None:
    """The part that a list or sequence has at a number; a list finds it by its name, a sequence by its place."""
    finds = getattr(type(module), "__getitem__", None)
    if finds is nn.ModuleList.__getitem__:
        return module._modules.get(str(number))
    if finds is nn.Sequential.__getitem__:
        return next(islice(module._modules.values(), number, None), None)
    return None


def _reduction(operation: nn.Module) -> list[Layer] | None:
    parts = operation._modules
    first, second, norm = (parts.get(name) for name in ("conv_1", "conv_2", "bn"))
    if not is_exactly(first, nn.Conv2d) or not is_exactly(second, nn.Conv2d) or not is_exactly(norm, *NORMS):
        return None
    return [_RELU, TwoGrids(cast(nn.Conv2d, first), cast(nn.Conv2d, second)), cast(nn.Module, norm)]


def _letter(layer: Layer) -> str:
    """What a layer of a chain, which is exactly of its class, is in a letter; "?" where its settings are not known."""
    if isinstance(layer, TwoGrids):
        return "h" if is_half(layer.even) and is_half(layer.odd) else "?"
    if isinstance(layer, Residual):
        return "?"
    letter = _LETTERS[kind_of(layer)]
    if letter in ("r", "s"):
        return letter if is_clamped_as_defined(layer) else "?"  # in place or not: nothing else reads what is between
    if letter == "z":
        return "z" if is_zero(layer) else "?"
    if letter == "m":
        return "m" if is_pool(layer) else "?"
    if letter != "c":
        return letter
    convolution = cast(nn.Conv2d, layer)
    if not is_convolution(convolution):
        return "?"
    return "p" if is_pointwise(convolution) else "d" if Geometry.of(convolution) is not None else "c"


def _fits_together(chain: Sequence[Layer]) -> bool:
    """Whether each layer takes as many channels as the one before gives, and none with weights occurs twice."""
    channels: int | None = None
    seen: set[int] = set()
    for layer in chain:
        assert not isinstance(layer, Residual)
        own = modules_of(layer)
        if not isinstance(layer, nn.ReLU | nn.ReLU6) and not seen.isdisjoint(map(id, own)):
            return False
        seen.update(map(id, own))
        if isinstance(layer, TwoGrids):
            even, odd = layer.even.weight, layer.odd.weight
            if even.shape != odd.shape:
                return False
            channels = 2 * even.shape[0]
        elif isinstance(layer, nn.Conv2d):
            if channels not in (None, layer.weight.shape[1] * layer.groups):
                return False
            channels = layer.weight.shape[0]
        elif isinstance(layer, nn.modules.batchnorm._BatchNorm) and not is_norm_of(
            layer, layer.num_features if channels is None else channels
        ):
            return False
    return True


def output_size(branch: Branch, shape: Shape) -> Shape | None:
    """Return the shape of a known operation's output.

    Args:
        branch: The operation.
        shape: (B, C, H, W), of its input.

    Returns:
        (B, C', H', W'); None where the operation, called, might refuse.
    """
    found: Shape | None = shape
    for layer in branch.layers:
        found = None if found is None else _size_behind(layer, found)
    if (
        found is None
        or (branch.is_residual and found != shape)
        or (branch.needs_even and any(n % 2 for n in shape[2:]))
    ):
        return None
    # Of a single value for each channel, BatchNorm makes an error or nothing, as its mode is.
    few = found[0] * found[2] * found[3] < 2
    return None if few and any(isinstance(layer, nn.BatchNorm2d) for layer in branch.layers) else found


def _size_behind(layer: Layer, shape: Shape) -> Shape | None:
    assert not isinstance(layer, Residual)
    batch, channels, *size = shape
    if isinstance(layer, TwoGrids):
        takes = channels == layer.even.weight.shape[1]
        return (batch, 2 * layer.even.weight.shape[0], *((n + 1) // 2 for n in size)) if takes else None
    if isinstance(layer, Zero):
        return (batch, channels, *(-(-n // layer.stride) for n in size)) if layer.stride > 0 else None
    if is_exactly(layer, *POOLS):
        return pooled_size(pool_settings(layer), shape)
    if isinstance(layer, nn.BatchNorm2d):
        return shape if channels == layer.num_features else None
    if isinstance(layer, nn.Conv2d):
        weight = layer.weight
        if channels != weight.shape[1] * layer.groups or not all(layer.stride):
            return None
        pairs = (size, weight.shape[2:], layer.stride, cast("tuple[int, int]", layer.padding), layer.dilation)
        size = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in zip(*pairs, strict=True)]
        return (batch, weight.shape[0], *size) if min(size) >= 1 else None
    return shape
