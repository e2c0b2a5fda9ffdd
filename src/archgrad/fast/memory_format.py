"""Which memory format images have, and whether a network may be given images in channels_last.

Convolutions are twice as fast in channels_last. But code that a person wrote may tell formats apart:
`x.view(len(x), -1)` ends in an error there. So a network gets channels_last only if all of its code is known not to
care. Its source is read (`source`), not run: every call in every branch of its modules' methods must be in a list. What
cannot be read keeps its format.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import is_

from torch import nn

from archgrad.cell import Cell
from archgrad.choices import Choice, InputChoice, LayerChoice
from archgrad.derived_cell import DerivedCell
from archgrad.exactness import is_exactly, is_hooked, kind_of
from archgrad.fast.harmless_calls import is_adaptive_pool
from archgrad.fast.in_place import writes_beyond
from archgrad.fast.recognise import overruns
from archgrad.fast.source import Reading, methods_of, read_module
from archgrad.fast.turned_layers import TURNED
from archgrad.fast.unchanged import Parts
from archgrad.operations import FactorizedReduce
from archgrad.values import ValueChoice

__all__ = [
    "Code",
    "accepts_channels_last",
    "keeps_to_itself",
    "works_in_place",
]


class Code:
    """What the code of a network does, read again when its modules, their hooks or their methods have changed.

    Args:
        network: Always the same object; copies read for themselves.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self.seen: Parts | None = None
        """What was there when the code was read last."""
        self._methods: list[tuple[type, list[object]]] = []
        self._names: list[int] = []
        self._pools: list[tuple[nn.Module, object]] = []  # with their settings
        self._accepts = False
        self.keeps_to_itself = False
        """`keeps_to_itself` of the network as it was then, if it accepts channels_last."""
        self.draws_masks = False
        """Whether it has a layer that draws as many random numbers as an image has."""

    def __deepcopy__(self, memo: dict[int, object]) -> Code:
        copied = memo.get(id(self._network))
        return Code(copied if isinstance(copied, nn.Module) else self._network)

    def __reduce__(self) -> tuple[type[Code], tuple[nn.Module]]:
        return type(self), (self._network,)

    def accepts_channels_last(self) -> bool:
        """Return `accepts_channels_last` of the network as it is now."""
        pools_hold = all(pool.output_size == size for pool, size in self._pools)
        if self.seen is None or not self.seen.hold() or not pools_hold or not self._are_in_place():
            kinds = {base for module in self._network.modules() for base in type(module).__mro__ if _is_own(base)}
            self._methods = [(kind, methods_of(kind)) for kind in kinds]
            self.seen, self._accepts = Parts(self._network), accepts_channels_last(self._network)
            self._names = list(map(len, self.seen.own))
            self._pools = [(m, m.output_size) for m in self.seen.modules if is_adaptive_pool(m)]
            self.keeps_to_itself = self._accepts and keeps_to_itself(self._network)
            self.draws_masks = any(isinstance(module, nn.Dropout) for module in self._network.modules())
        return self._accepts

    def _are_in_place(self) -> bool:
        """Whether classes define what they did, and modules hide none of it by something of their own."""
        assert self.seen is not None
        return list(map(len, self.seen.own)) == self._names and all(
            len(now := methods_of(kind)) == len(then) and all(map(is_, now, then)) for kind, then in self._methods
        )


def _is_own(kind: type) -> bool:
    """Whether a person wrote the class."""
    return not kind.__module__.startswith(("torch.", "archgrad.", "builtins"))


def accepts_channels_last(network: nn.Module) -> bool:
    """Return whether the network computes the same with images in channels_last as with contiguous ones.

    Args:
        network: A space, or a derived network; nothing of it is run.
    """
    modules = list(network.modules())
    if not any(isinstance(module, nn.Conv2d) for module in modules):  # nothing to gain
        return False
    if any(map(overruns, _strided(modules))) or any(is_hooked(m) or "forward" in vars(m) for m in modules):
        return False
    readings = _readings(network)
    in_place = works_in_place(network)
    return all(
        reading is not None and not reading.tells_formats_apart and not (in_place and reading.joins_or_copies)
        for reading in readings
    )


def keeps_to_itself(network: nn.Module) -> bool:
    """Return whether nothing that the network's code is given in a pass, or sees of other modules, outlasts the call.

    It does not write in place either, and archgrad's modules in it are choices and operations.
    """
    own = (kind for kind in map(kind_of, network.modules()) if kind.__module__.startswith("archgrad."))
    known = all(kind in (LayerChoice, InputChoice) or kind.__module__ == "archgrad.operations" for kind in own)
    if any(module._compiled_call_impl is not None for module in network.modules()):  # what it is called with is traced
        return False
    return known and not works_in_place(network) and not any(r is None or r.reaches_beyond for r in _readings(network))


def works_in_place(network: nn.Module) -> bool:
    """Return whether a person's code in the network may change a tensor in place, or cannot be read."""
    readings = list(_readings(network))
    if any(reading is None or reading.writes_in_place for reading in readings):
        return True
    return bool(readings) and any(writes_beyond(module) for module in network.children())


def _readings(network: nn.Module) -> Iterator[Reading | None]:
    """What the code of every module says that is not archgrad's own; None of one that is unknown."""
    for module in network.modules():
        kind = kind_of(module)
        if isinstance(module, Choice | DerivedCell):
            if kind not in (Cell, DerivedCell, LayerChoice, InputChoice, ValueChoice):
                yield None
        elif kind.__module__.startswith("torch.nn."):
            if kind not in _LAYERS and type(module) is not TURNED.get(kind):
                yield None
        elif not kind.__module__.startswith("archgrad."):
            yield read_module(module, kind)


def _strided(modules: list[nn.Module]) -> Iterator[nn.Conv2d]:
    """The convolutions of a network; those of a FactorizedReduce read picked pixels and are not strided."""
    picked = {
        id(half)
        for module in modules
        if isinstance(module, FactorizedReduce)
        for half in (module.conv_1, module.conv_2)
        if is_exactly(half, nn.Conv2d)
    }
    for module in modules:
        if isinstance(module, nn.Conv2d) and id(module) not in picked:
            yield module


_LAYERS = {
    *(nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.GroupNorm, nn.LocalResponseNorm),
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.LPPool2d, nn.Upsample),
    *(nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.ConstantPad2d, nn.PixelShuffle, nn.ChannelShuffle),
    *(nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softsign, nn.Softmax),
    *(nn.Linear, nn.LayerNorm, nn.BatchNorm1d, nn.Flatten, nn.Dropout2d),
    *(nn.Sequential, nn.ModuleList, nn.ModuleDict),
}
"""Layers of PyTorch that compute the same in both formats; others do so when they are turned (`turned_layers`)."""
