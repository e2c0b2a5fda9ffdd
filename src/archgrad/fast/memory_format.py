"""Which memory format images have, and whether a network may be given images in channels_last.

Convolutions are twice as fast in channels_last. But code that a person wrote may tell formats apart:
`x.view(len(x), -1)` ends in an error there. So a network gets channels_last only if all of its code is known not to
care: it is traced symbolically (`torch.fx`), and everything that it does is in a list. What cannot be traced keeps its
format.
"""

from __future__ import annotations

import copy
import operator
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from archgrad.cell import Cell, DerivedCell
from archgrad.choices import Choice, InputChoice, LayerChoice, SelectInputs
from archgrad.exactness import is_exactly, is_hooked, kind_of
from archgrad.operations import FactorizedReduce

__all__ = ["accepts_channels_last", "as_written", "is_channels_last"]


def is_channels_last(x: Tensor) -> bool:
    """Return whether an image is in channels_last and not contiguous; of one that is both, False."""
    return x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def as_written(x: Tensor, *, channels_last: bool) -> Tensor:
    """Return an image in the memory format in which the plain path has it."""
    return x if channels_last or x.dim() != 4 else x.contiguous()


def accepts_channels_last(network: nn.Module) -> bool:
    """Return whether the network computes the same with images in channels_last as with contiguous ones.

    Args:
        network: A space, or a derived network; stays as it is, and so do random states.
    """
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    if not convolutions or any(map(_breaks, _run_as_written(network))) or any(map(is_hooked, network.modules())):
        return False  # without convolutions there is nothing to gain
    try:
        with _random_states():
            return _Careless().holds_for(copy.deepcopy(network))
    except Exception:  # whatever code that cannot be traced raises
        return False


def _run_as_written(network: nn.Module) -> Iterator[nn.Conv2d]:
    """The convolutions of a network; those of a FactorizedReduce read picked pixels and are not strided."""
    picked = {
        id(half)
        for module in network.modules()
        if isinstance(module, FactorizedReduce)
        for half in (module.conv_1, module.conv_2)
        if is_exactly(half, nn.Conv2d)
    }
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and id(module) not in picked:
            yield module


def _breaks(convolution: nn.Conv2d) -> bool:
    """Whether oneDNN (torch 2.14, CPU) may write past its buffer in the weight's gradient in channels_last."""
    return (
        tuple(convolution.kernel_size) == (1, 1)
        and tuple(convolution.stride) != (1, 1)
        and convolution.in_channels < 8 * convolution.groups
    )


@contextmanager
def _random_states() -> Iterator[None]:
    """Leave the random states as they are; tracing runs what a forward pass draws."""
    state = random.getstate()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(state)


_LAYERS = (
    *(nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.GroupNorm, nn.InstanceNorm2d, nn.LocalResponseNorm),
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.LPPool2d, nn.Upsample),
    *(nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.ConstantPad2d, nn.PixelShuffle, nn.ChannelShuffle),
    *(nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softsign, nn.Softmax),
    *(nn.Linear, nn.LayerNorm, nn.BatchNorm1d, nn.Flatten, nn.Dropout, nn.Dropout2d),
)
_FUNCTIONS = {
    *(operator.add, operator.sub, operator.mul, operator.truediv, operator.neg, operator.iadd, operator.getitem),
    *(getattr, torch.add, torch.sub, torch.mul, torch.cat, torch.stack, torch.flatten, torch.mean, torch.sum),
    *(torch.relu, torch.sigmoid, torch.tanh, torch.maximum, torch.minimum, torch.amax, torch.chunk, torch.split),
    *(F.relu, F.relu6, F.leaky_relu, F.gelu, F.silu, F.hardswish, F.hardsigmoid, F.sigmoid, F.tanh, F.softmax),
    *(F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d, F.pad, F.interpolate, F.conv2d),
    *(F.linear, F.dropout, F.dropout2d, F.log_softmax, F.normalize),
    *(torch.conv2d, torch.max_pool2d),
}
_METHODS = {
    *("add", "sub", "mul", "div", "relu", "sigmoid", "tanh", "mean", "sum", "amax", "flatten", "reshape", "chunk"),
    *("split", "size", "dim", "softmax", "squeeze", "unsqueeze", "detach", "clone", "float", "clamp", "contiguous"),
}
_ATTRIBUTES = {"shape", "dtype", "device", "ndim"}


class _Tracer(fx.Tracer):
    """Goes into modules that a person wrote; layers, choices and archgrad's own modules are looked at one by one."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return _is_own(m) or (kind_of(m).__module__.startswith("torch.nn") and not isinstance(m, nn.Sequential))


def _is_own(module: nn.Module) -> bool:
    return kind_of(module).__module__.startswith("archgrad.")


class _Careless:
    """Goes through a network once; raises, or returns False, where its code might tell memory formats apart."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def holds_for(self, module: nn.Module) -> bool:
        if id(module) in self._seen:
            return True
        self._seen.add(id(module))
        if "forward" in module.__dict__:
            return False
        if isinstance(module, Choice | SelectInputs | DerivedCell) or _is_own(module):
            if isinstance(module, Choice | DerivedCell) and not self._is_ours(module):
                return False
            return all(map(self.holds_for, module.children()))
        if isinstance(module, nn.ModuleList | nn.ModuleDict | nn.Sequential):
            return type(module).__module__.startswith("torch.nn") and all(map(self.holds_for, module.children()))
        if kind_of(module).__module__.startswith("torch.nn"):
            return kind_of(module) in _LAYERS
        graph = _Tracer().trace(module)
        return all(self._takes(module, node) for node in graph.nodes)

    @staticmethod
    def _is_ours(module: nn.Module) -> bool:
        return type(module) in (Cell, DerivedCell, LayerChoice, InputChoice)

    def _takes(self, root: nn.Module, node: fx.Node) -> bool:
        if node.op == "call_module":
            return self.holds_for(root.get_submodule(str(node.target)))
        if node.op == "call_function":
            if node.target is getattr:
                return node.args[1] in _ATTRIBUTES
            return _in(node.target, _FUNCTIONS)
        if node.op == "call_method":
            return node.target in _METHODS
        return node.op in ("placeholder", "get_attr", "output")


def _in(target: Any, functions: set[Any]) -> bool:
    try:
        return target in functions
    except TypeError:
        return False
