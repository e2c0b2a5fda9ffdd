"""What an operation consists of, said once: the layers that its input goes through, found by structure.

An operation is *known* if it is one of the forms below, whatever its class: a layer, a sequence, or a module of a
person's own whose code says no more than which part follows which (`dataflow`). Where a part was replaced, set
otherwise, hooked, parametrized or has a `forward` of its own, nothing is known, and the operation runs as it is
written.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias, cast

from torch import nn

from archgrad.added_noise import AddedNoise, noise_of
from archgrad.exactness import is_exactly, is_exactly_but_hooked, kind_of
from archgrad.fast.activations import ACTIVATIONS, activation_of
from archgrad.fast.batch_norms import uses_batch
from archgrad.fast.biases import TwoGrids, behind, is_behind, modules_of
from archgrad.fast.chains import Layer, Residual, chain_of, reduction_of
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
from archgrad.operations import FactorizedReduce, Zero

__all__ = ["Branch", "Form", "Shape", "Stage", "branch_of", "noisy_branch_of", "output_size"]

Shape: TypeAlias = tuple[int, ...]

Form = Literal[
    "identity",
    "zero",
    "pool",
    "pool-norm",
    "reduction",
    "convolution",
    "depthwise",
    "separable",
    "stages",
    "inverted",
    "chain",
]


class Stage(NamedTuple):
    """What a program computes of an operation in one step."""

    activation: nn.Module | None
    """What its input goes through first."""
    layers: tuple[Layer, ...]
    """Nothing; a convolution; or a convolution, or a depthwise and a pointwise one, and a BatchNorm."""


class Branch(NamedTuple):
    """A known operation."""

    operation: nn.Module
    form: Form
    layers: tuple[Layer, ...]
    """What the input goes through, between `relu_before` and `relu_behind`: nothing; a Zero; a pool; a pool and a
    BatchNorm; TwoGrids and a BatchNorm; or any convolution ("convolution"), or a depthwise and a pointwise one
    ("depthwise"), and a BatchNorm; or twice the latter with a ReLU between ("separable"), or any several of these with
    ReLUs between ("stages"); or a pointwise, a depthwise, a pointwise convolution, each with a BatchNorm behind it, and
    between them ReLU or ReLU6 ("inverted", of which the first convolution may be missing with what follows it); or any
    other chain of convolutions, BatchNorms behind some of them, and activations ("chain")."""
    relu_before: bool = False
    """Whether its input goes through a ReLU first."""
    relu_behind: bool = False
    """Whether its output goes through a ReLU."""
    writes_to_input: bool = False
    """Whether calling it changes its input, unless that is given as a copy, as candidates' inputs are."""
    is_residual: bool = False
    """Whether its input is added to what the layers give."""
    behind: nn.Module | None = None
    """The activation that the sum goes through then, if any."""
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
    def is_for_programs(self) -> bool:
        """Whether it is called where no program of all that is around it is computed."""
        return self.is_residual or self.form in ("stages", "inverted", "chain")

    @property
    def stages(self) -> list[Stage]:
        """All that a convolution goes through, one after the other, activations before and behind it included."""
        found: list[Stage] = []
        activation: nn.Module | None = _RELU if self.relu_before else None
        pending: list[Layer] = []  # convolutions behind which a BatchNorm may follow

        def end(*norm: Layer) -> None:
            nonlocal activation
            first, *rest = [(*pending, *norm)] if norm or not pending else [(one,) for one in pending]
            found.extend([Stage(activation, first), *(Stage(None, layers) for layers in rest)])
            activation = None
            pending.clear()

        for layer in (*self.layers, *([_RELU] if self.relu_behind else [])):
            if isinstance(layer, nn.BatchNorm2d):
                end(layer)
            elif isinstance(layer, nn.Conv2d | TwoGrids):
                if pending and not _belong_together(pending, layer):
                    end()
                pending.append(layer)
            else:
                if pending:
                    end()
                activation = cast(nn.Module, layer)
        if pending or activation is not None:
            end()
        return found

    @property
    def norms(self) -> list[nn.BatchNorm2d]:
        """Its BatchNorms."""
        return [layer for layer in self.layers if isinstance(layer, nn.BatchNorm2d)]

    def biased(self) -> list[nn.Conv2d]:
        """Return the convolutions that have a bias which the BatchNorm behind them takes out again."""
        layers = [layer for stage in self.stages if _ends_in_norm(stage.layers) for layer in stage.layers]
        modules = [module for layer in layers for module in modules_of(cast("nn.Module | TwoGrids", layer))]
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
_RESIDUAL: tuple[Form, ...] = ("convolution", "depthwise", "separable", "stages", "inverted", "chain")
"""Forms to whose output their input may be added."""
_STAGES = re.compile("r?(?:(?:c|d|p|dp)nr)+(?:c|d|p|dp)nr?")
"""Of the form "stages", if it is no other."""
_CHAIN = re.compile("[ras]?(?:[cdp]n?[ras]?)+")
"""Of the form "chain", if it is no other."""
_LETTERS: dict[type[nn.Module], str] = {
    **dict.fromkeys(ACTIVATIONS, "a"),
    **{nn.Identity: "?", nn.ReLU: "r", nn.ReLU6: "s", nn.Conv2d: "c", Zero: "z"},
    **dict.fromkeys(POOLS, "m"),
    **dict.fromkeys(NORMS, "n"),
}
"""What the layers of a chain are in letters."""
_RELU = nn.ReLU()


def branch_of(operation: nn.Module) -> Branch | None:
    """Return what an operation consists of; None if it is not known, and must be called."""
    if is_exactly(operation, FactorizedReduce):
        chain, needs_even = reduction_of(operation), False  # it pads odd images
    else:
        chain, needs_even = chain_of(operation), True
    return None if chain is None else _as_branch(operation, chain, needs_even=needs_even)


def noisy_branch_of(operation: nn.Module) -> Branch | None:
    """Return what a skip connection consists of to whose output noise is added, and nothing else done."""
    kind, noise = kind_of(operation), noise_of(operation)
    if noise is None or kind not in (nn.Identity, FactorizedReduce) or not is_exactly_but_hooked(operation, kind):
        return None
    chain = [] if kind is nn.Identity else reduction_of(operation)
    branch = None if chain is None else _as_branch(operation, chain, needs_even=False)
    return None if branch is None else branch._replace(noise=noise)


def _as_branch(operation: nn.Module, chain: Sequence[Layer], *, needs_even: bool) -> Branch | None:
    layers, is_residual, behind = tuple(chain), False, None
    if layers and isinstance(layers[0], Residual):
        if "".join(map(_letter, layers[1:])) not in ("", "r", "s", "a"):
            return None
        layers, is_residual, behind = layers[0].layers, True, cast("nn.Module | None", next(iter(layers[1:]), None))
    letters = "".join(map(_letter, layers))
    form = _form_of(letters)
    if form is None or not _fits_together(layers):
        return None
    relu_before, relu_behind = letters.startswith("r"), letters.endswith("r")
    writes_to_input = letters[:1] in ("r", "a", "s") and is_in_place(cast(nn.Module, layers[0]))
    if is_residual and (writes_to_input or form not in _RESIDUAL):  # to what is added then
        return None
    if behind is not None and form == "inverted":
        return None
    return Branch(
        operation,
        form,
        _knowing_biases(layers[relu_before : len(layers) - relu_behind]),
        relu_before=relu_before,
        relu_behind=relu_behind,
        writes_to_input=writes_to_input,
        is_residual=is_residual,
        behind=behind,
        needs_even=needs_even and form == "reduction",
    )


def _form_of(letters: str) -> Form | None:
    if _STAGES.fullmatch(letters):
        return _FORMS.get(letters, "stages")
    return _FORMS.get(letters, "chain" if _CHAIN.fullmatch(letters) else None)


def _belong_together(before: Sequence[Layer], layer: Layer) -> bool:
    """Whether the biases of both convolutions move the channels behind them by a number each: whatever padding adds,
    it adds before them."""
    first = before[-1]
    if len(before) > 1 or not isinstance(first, nn.Conv2d) or not isinstance(layer, nn.Conv2d):
        return False
    return is_pointwise(layer) and Geometry.of(first) is not None


def _ends_in_norm(layers: Sequence[Layer]) -> bool:
    return bool(layers) and isinstance(layers[-1], nn.BatchNorm2d)


def _knowing_biases(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """The same with BatchNorms that know the biases of the convolutions directly before them."""
    found: list[Layer] = []
    before: list[nn.Conv2d | TwoGrids] = []
    for layer in layers:
        if isinstance(layer, nn.Conv2d | TwoGrids):
            before = [*before, layer] if before and _belong_together(before, layer) else [layer]
        elif isinstance(layer, nn.BatchNorm2d):
            layer, before = behind(layer, before), []
        else:
            before = []
        found.append(layer)
    return tuple(found)


def _letter(layer: Layer) -> str:
    """What a layer of a chain, which is exactly of its class, is in a letter; "?" where its settings are not known."""
    if isinstance(layer, TwoGrids):
        return "h" if is_half(layer.even) and is_half(layer.odd) else "?"
    if isinstance(layer, Residual):
        return "?"
    letter = _LETTERS[kind_of(layer)]
    if letter in ("r", "s", "a"):  # in place or not: nothing else reads what is between
        if letter == "s" and not is_clamped_as_defined(layer):
            letter = "a"
        return letter if activation_of(layer) is not None else "?"
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
        if kind_of(own[0]) not in ACTIVATIONS and not seen.isdisjoint(map(id, own)):
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
