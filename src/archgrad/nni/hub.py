"""The DARTS space of NNI's hub, which is the paper's space."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from archgrad import architectures
from archgrad.architecture import Architecture
from archgrad.derive import derive
from archgrad.errors import OptionError
from archgrad.nni.frozen import frozen_now
from archgrad.operations import DropPath
from archgrad.spaces.darts import darts_cifar, darts_imagenet

__all__ = ["DARTS"]

_SPACES = {"cifar": (darts_cifar, 10), "imagenet": (darts_imagenet, 1000)}


def _set_drop_path(network: nn.Module, p: float) -> None:
    for module in network.modules():
        if isinstance(module, DropPath):
            module.p = p


def _with_drop_path(network: nn.Module, p: float) -> nn.Module:
    """Return the network with NNI's names for the probability of its drop path."""
    network.set_drop_path_prob = partial(_set_drop_path, network)  # type: ignore[assignment]
    network.drop_path_prob = p  # type: ignore[assignment]
    _set_drop_path(network, p)
    return network


class DARTS(nn.Module):
    """The paper's space: a call returns `archgrad.spaces.darts_cifar(...)` or, inside `fixed_arch`, its network.

    Args:
        width: Channels of the first cells.
        num_cells: Number of cells.
        dataset: "cifar" (10 classes) or "imagenet" (1000 classes).
        auxiliary_loss: Add the second classifier; inside `fixed_arch` only.
        drop_path_prob: Probability that a path is dropped in training; inside `fixed_arch` only. The network has it as
            its attribute, and `set_drop_path_prob(p)` as its method.
    """

    def __new__(
        cls,
        width: int = 16,
        num_cells: int = 20,
        dataset: str = "imagenet",
        auxiliary_loss: bool = False,
        drop_path_prob: float = 0.0,
    ) -> Any:
        """Return the module."""
        if dataset not in _SPACES:
            raise OptionError(f"dataset must be 'cifar' or 'imagenet', but got {dataset!r}.")
        for name, value in (("width", width), ("num_cells", num_cells)):
            if isinstance(value, tuple | list):
                raise OptionError(
                    f"{name} must be a number, but got {value!r}: the sizes of this space are not searched. Give one."
                )
        space, classes = _SPACES[dataset]
        frozen = frozen_now()
        if frozen is None:
            if auxiliary_loss or drop_path_prob:
                raise OptionError("auxiliary_loss and drop_path_prob belong to the network that is trained in the end.")
            return _with_drop_path(space(width, num_cells, classes, stage="search"), 0.0)
        network = derive(
            space(width, num_cells, classes, auxiliary=auxiliary_loss, stage="retrain"),
            Architecture.from_nni(frozen.data) if "normal" not in frozen.data else Architecture(frozen.data),
        )
        return _with_drop_path(network, drop_path_prob)

    @classmethod
    def load_searched_model(
        cls, name: str, pretrained: bool = False, download: bool = False, progress: bool = True
    ) -> nn.Module:
        """Return the network of the paper's second-order search, with fresh weights.

        Args:
            name: "darts-v2".
            pretrained: False; weights are read by `archgrad.official.read_network`.
            download: Without a meaning where nothing is pretrained.
            progress: As `download`.

        Raises:
            OptionError: It has another name, or weights are asked for.
        """
        del download, progress
        if name != "darts-v2" or pretrained:
            raise OptionError(
                f"There is 'darts-v2', without weights, but got {name!r}, pretrained={pretrained}. Read a file of "
                f"weights with archgrad.official.read_network(state_dict, archgrad.architectures.DARTS_V2)."
            )
        return derive(darts_cifar(36, 20, 10, stage="retrain"), architectures.DARTS_V2)
