"""Others' weights in and the authors' out: state dicts, read into archgrad's networks and written back.

All sides have the same layers; only names and the place of the alphas differ (Liu et al. 2019).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from archgrad.architecture import Architecture
from archgrad.derive import derive
from archgrad.derived_cell import DerivedCell
from archgrad.errors import ArchitectureError, SpaceError
from archgrad.operations import DARTS_PRIMITIVES, ConvPair
from archgrad.spaces.darts import darts_cifar, darts_imagenet
from archgrad.spaces.darts_network import DartsCell, DartsNetwork
from archgrad.supernet import Supernet
from archgrad.weight_names import own_names, plain_state, sizes_of

__all__ = [
    "network_from_state_dict",
    "network_to_state_dict",
    "read_network",
    "read_supernet",
    "supernet_from_state_dict",
    "to_official",
]

_CELLS = ("normal", "reduce")
_ALPHAS = {"normal": ("alphas_normal", "_arch_parameters.0"), "reduce": ("alphas_reduce", "_arch_parameters.1")}
"""What the authors' code and its forks call the alphas, where they save them."""


def supernet_from_state_dict(
    state_dict: Mapping[str, Tensor],
    alphas_normal: Tensor,
    alphas_reduce: Tensor,
    *,
    channels: int,
    cells: int,
    num_classes: int,
) -> Supernet:
    """Return a supernet of the paper's space with the weights and alphas of the authors' search network.

    Args:
        state_dict: Weights and BatchNorm buffers under the authors' names; its dtype becomes the supernet's.
        alphas_normal: (14, 8), edges node by node and operations in the authors' order.
        alphas_reduce: (14, 8).
        channels: Channels of the first cells.
        cells: Number of cells.
        num_classes: Number of classes.

    Raises:
        ArchitectureError: Names or shapes do not fit this network; the message lists them.
    """
    supernet = Supernet(darts_cifar(channels, cells, num_classes))
    supernet.to(state_dict["stem.0.weight"].dtype if "stem.0.weight" in state_dict else alphas_normal.dtype)
    renamed = {re.sub(r"\._ops\.(\d+)\._ops\.", r".graph.edges.\1.candidates.", k): v for k, v in state_dict.items()}
    _load(supernet.network, renamed)
    with torch.no_grad():
        for label, table in zip(_CELLS, (alphas_normal, alphas_reduce), strict=True):
            rows = _alpha_rows(supernet, label)
            if not rows:
                continue  # a network of one cell has no normal cell
            if table.shape != (len(rows), len(DARTS_PRIMITIVES)):
                raise ArchitectureError(
                    f"alphas_{label} must be {len(rows)}x{len(DARTS_PRIMITIVES)}, but it is {tuple(table.shape)}."
                )
            for row, values in zip(rows, table, strict=True):
                row.copy_(values)
    return supernet


def to_official(supernet: Supernet) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Return (state_dict, alphas_normal, alphas_reduce) of a supernet of the paper's space in the authors' layout.

    Returns:
        Copies, on the supernet's device: weights and buffers under the authors' names, and alphas as (14, 8).

    Raises:
        SpaceError: The supernet is of another space.
    """
    if not isinstance(supernet.network, DartsNetwork):
        raise SpaceError(
            f"The authors' layout holds the paper's space (darts_cifar), but this supernet is a "
            f"{type(supernet.network).__name__}."
        )
    state = {
        re.sub(r"\.graph\.edges\.(\d+)\.candidates\.", r"._ops.\1._ops.", name): value.detach().clone()
        for name, value in supernet.network.state_dict().items()
    }
    tables = []
    for label in _CELLS:
        rows = _alpha_rows(supernet, label)
        tables.append(torch.stack([row.detach().clone() for row in rows]) if rows else torch.zeros(0, 8))
    return state, tables[0], tables[1]


def read_supernet(
    saved: Mapping[str, Any], alphas_normal: Tensor | None = None, alphas_reduce: Tensor | None = None
) -> Supernet:
    """Return a supernet with the weights of a search of the authors' code, whose sizes are told by the shapes.

    Args:
        saved: A state dict, or a checkpoint with one under "state_dict".
        alphas_normal: (14, 8); by default those in the state dict, where a fork saves them.
        alphas_reduce: (14, 8).

    Raises:
        ArchitectureError: There are no alphas, or names or shapes do not fit.
    """
    state = plain_state(saved)
    tables = {}
    for label, given in zip(_CELLS, (alphas_normal, alphas_reduce), strict=True):
        held = [state.pop(name) for name in _ALPHAS[label] if name in state]
        if given is None and not held:
            raise ArchitectureError(
                f"These weights have no alphas_{label}, which the authors' code does not save. Give them as a (14, 8) "
                f"tensor: logarithms of the probabilities that the search printed, or zeros if only the weights matter."
            )
        tables[label] = held[0] if given is None else given
    sizes = sizes_of(state)
    wanted = {name: sizes[name] for name in ("channels", "cells", "num_classes")}
    return supernet_from_state_dict(state, tables["normal"], tables["reduce"], **wanted)


def read_network(saved: Mapping[str, Any], genotype: Architecture | str) -> nn.Module:
    """Return a plain network with trained weights of the authors' code, of pt.darts or of NNI's hub.

    Whose they are is told by their names, the sizes of the network by their shapes.

    Args:
        saved: A state dict, or a checkpoint with one under "state_dict".
        genotype: The architecture that was trained, or its `Genotype(...)` text.

    Raises:
        ArchitectureError: Names or shapes fit none of these, or not this architecture.
    """
    architecture = genotype if isinstance(genotype, Architecture) else Architecture.from_genotype(genotype)
    state = own_names(plain_state(saved), architecture.choices)
    return _network(state, architecture, **sizes_of(state))


def network_from_state_dict(
    state_dict: Mapping[str, Tensor],
    genotype: Architecture | str,
    *,
    channels: int,
    cells: int,
    num_classes: int,
    auxiliary: bool,
    imagenet: bool = False,
) -> nn.Module:
    """Return a plain network with the weights of the authors' training network.

    Args:
        state_dict: Weights and BatchNorm buffers under the authors' names; its dtype becomes the network's.
        genotype: An architecture, or the authors' `Genotype(...)` text.
        channels: Channels of the first cells.
        cells: Number of cells.
        num_classes: Number of classes.
        auxiliary: Whether the network has the auxiliary head.
        imagenet: Whether it is the authors' network for 224 x 224 images.

    Raises:
        ArchitectureError: Names or shapes do not fit this network; the message lists them.
    """
    architecture = genotype if isinstance(genotype, Architecture) else Architecture.from_genotype(genotype)
    sizes = {"channels": channels, "cells": cells, "num_classes": num_classes}
    return _network(state_dict, architecture, **sizes, auxiliary=auxiliary, imagenet=imagenet)


def _network(
    state_dict: Mapping[str, Tensor], architecture: Architecture, *, imagenet: bool, **sizes: Any
) -> nn.Module:
    space = darts_imagenet if imagenet else darts_cifar
    network = derive(space(**sizes, stage="retrain"), architecture)
    floating = next((v.dtype for v in state_dict.values() if v.is_floating_point()), torch.float32)
    pairs = _conv_pairs(network)
    renamed = {_own_name(name, pairs): value for name, value in state_dict.items()}
    renamed = _normalised_pools(network, renamed)
    network.to(floating)
    unused = _unused_parts(network)
    _load(network, {name: value for name, value in renamed.items() if not name.startswith(unused)})
    return network


def _normalised_pools(network: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put a BatchNorm after the pools that have one in the weights (pt.darts'), and return the weights renamed."""
    renamed = dict(state)
    for name, cell in network.named_modules():
        if not isinstance(cell, DartsCell):
            continue
        graph = cast(DerivedCell, cell.graph)
        for key, operation in graph.operations.items():
            prefix = f"{name}.graph.operations.{key}.bn."
            if isinstance(operation, nn.MaxPool2d | nn.AvgPool2d) and f"{prefix}running_mean" in state:
                norm = nn.BatchNorm2d(len(state[f"{prefix}running_mean"]), affine=f"{prefix}weight" in state)
                graph.operations[key] = nn.Sequential(operation, norm)
                for part in [part for part in state if part.startswith(prefix)]:
                    renamed[part.replace(".bn.", ".1.")] = renamed.pop(part)
    return renamed


def network_to_state_dict(network: nn.Module) -> dict[str, Tensor]:
    """Return the weights of a derived network of the paper's space under the authors' names.

    Args:
        network: What `derive` makes of the retraining stage of `darts_cifar` or `darts_imagenet`.

    Returns:
        Copies, on the network's device. Parts that the authors' cells hold and their output does not use, which
        `derive` leaves out, are not among them.

    Raises:
        SpaceError: The network is another one.
    """
    cells = [module.graph for module in network.modules() if isinstance(module, DartsCell)]
    if not isinstance(network, DartsNetwork) or not all(isinstance(graph, DerivedCell) for graph in cells):
        raise SpaceError(
            f"The authors' training network is what derive makes of darts_cifar(..., stage='retrain'), but got a "
            f"{type(network).__name__}{' with open choices' if isinstance(network, DartsNetwork) else ''}."
        )
    derived = [cast(DerivedCell, graph) for graph in cells]
    if any(isinstance(operation, nn.Sequential) for graph in derived for operation in graph.operations.values()):
        raise SpaceError(
            "The pools of this network are followed by a BatchNorm, as in pt.darts, and those of the authors are not. "
            "Keep its state_dict() as it is."
        )
    pairs = _conv_pairs(network)
    return {_official_name(name, pairs): value.detach().clone() for name, value in network.state_dict().items()}


def _conv_pairs(network: nn.Module) -> tuple[str, ...]:
    """Prefixes of the operations that are a plain sequence in the authors' code, and have no level `op`."""
    return tuple(f"{name}." for name, module in network.named_modules() if isinstance(module, ConvPair))


def _own_name(name: str, pairs: tuple[str, ...]) -> str:
    name = re.sub(r"\._ops\.(\d+)\.", r".graph.operations.\1.", name)
    prefix = next((prefix for prefix in pairs if name.startswith(prefix)), None)
    below = prefix is not None and not name.startswith(f"{prefix}op.")
    return f"{prefix}op.{name.removeprefix(str(prefix))}" if below else name


def _official_name(name: str, pairs: tuple[str, ...]) -> str:
    prefix = next((prefix for prefix in pairs if name.startswith(prefix)), None)
    name = name if prefix is None else prefix + name.removeprefix(f"{prefix}op.")
    return re.sub(r"\.graph\.operations\.(\d+)\.", r"._ops.\1.", name)


def _unused_parts(network: nn.Module) -> tuple[str, ...]:
    """Prefixes of what the authors' cells hold beside what their output uses, and `derive` leaves out."""
    unused: list[str] = []
    for name, cell in network.named_modules():
        if isinstance(cell, DartsCell):
            graph = cast(DerivedCell, cell.graph)
            entries = (f"graph.operations.{k}" for k in range(graph.n_entries) if str(k) not in graph.operations)
            inputs = (part for part in ("preprocess0", "preprocess1") if getattr(cell, part) is None)
            unused.extend(f"{name}.{part}." for part in (*entries, *inputs))
    return tuple(unused)


def _alpha_rows(supernet: Supernet, label: str) -> list[nn.Parameter]:
    return [alpha for name, alpha in supernet.alphas.items() if name.startswith(f"{label}/")]


def _load(network: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Load strictly, but for a count of batches, which the oldest checkpoints lack."""
    own = network.state_dict()
    missing = [name for name in own if name not in state_dict and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state_dict if name not in own]
    unequal = [name for name in own if name in state_dict and own[name].shape != state_dict[name].shape]
    if missing or unexpected or unequal:
        parts = [
            f"{what} {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
            for what, names in (("it lacks", missing), ("it has unknown", unexpected), ("shapes differ in", unequal))
            if names
        ]
        raise ArchitectureError(
            f"The state dict does not fit this network: {'; '.join(parts)}. "
            f"Check channels, cells, num_classes, auxiliary and the genotype."
        )
    network.load_state_dict(dict(state_dict), strict=False)
