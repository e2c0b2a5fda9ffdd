"""The authors' weights in and out, both ways round; equality with their numbers is held by the golden tests."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from derived_networks import images
from torch import nn

import archgrad as ag
from archgrad import official
from archgrad.errors import ArchitectureError, SpaceError
from toys import same_state

SIZES = {"channels": 2, "cells": 3, "num_classes": 5}


@functools.cache
def search_network(dtype: torch.dtype = torch.float32) -> ag.Supernet:
    """One network for all tests, which leave it as it is."""
    torch.manual_seed(0)
    supernet = ag.Supernet(ag.spaces.darts_cifar(2, 3, 5).to(dtype), seed=3)
    supernet.train()(images().to(dtype))  # so that statistics are not those of the start
    return supernet


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_supernet_goes_out_and_in_bit_for_bit(dtype: torch.dtype) -> None:
    supernet = search_network(dtype)
    state, normal, reduce = official.to_official(supernet)
    assert normal.shape == reduce.shape == (14, 8)
    back = official.supernet_from_state_dict(state, normal, reduce, **SIZES)
    assert {p.dtype for p in back.parameters()} == {dtype}
    assert same_state(back, supernet.state_dict())
    x = images().to(dtype)
    assert torch.equal(back.eval()(x), supernet.eval()(x))


def test_alphas_are_tables_of_edges_node_by_node_and_operations_in_the_authors_order() -> None:
    supernet = search_network()
    _, normal, reduce = official.to_official(supernet)
    edges = [(source, node) for node in range(2, 6) for source in range(node)]
    for i, (source, node) in enumerate(edges):
        assert torch.equal(normal[i], supernet.alphas[f"normal/{source}->{node}"])
        assert torch.equal(reduce[i], supernet.alphas[f"reduce/{source}->{node}"])


def test_what_goes_out_is_a_copy() -> None:
    supernet = search_network()
    before = copy.deepcopy(supernet.state_dict())
    state, normal, reduce = official.to_official(supernet)
    for value in (*state.values(), normal, reduce):
        value.zero_()
    assert same_state(supernet, before)


def test_names_are_the_authors() -> None:
    state, _, _ = official.to_official(search_network())
    assert "cells.0._ops.0._ops.4.op.1.weight" in state  # first edge, sep_conv_3x3, first depthwise convolution
    assert "cells.0._ops.0._ops.1.1.running_mean" in state  # BatchNorm after a max pool
    assert "cells.1._ops.0._ops.3.conv_1.weight" in state  # FactorizedReduce
    assert "cells.0.preprocess0.op.1.weight" in state
    assert "stem.0.weight" in state
    assert "classifier.bias" in state
    assert not any("graph" in name or "alphas" in name for name in state)


PUBLISHED = ("DARTS_V1", "DARTS_V2", "PC_DARTS_cifar", "NASNet", "AmoebaNet")
SEPARABLE = ["op.1", "op.2", "op.3", "op.5", "op.6", "op.7"]
LAYERS = {
    "max_pool_3x3": [],
    "avg_pool_3x3": [],
    "sep_conv_3x3": SEPARABLE,
    "sep_conv_5x5": SEPARABLE,
    "sep_conv_7x7": SEPARABLE,
    "dil_conv_3x3": ["op.1", "op.2", "op.3"],
    "dil_conv_5x5": ["op.1", "op.2", "op.3"],
    "conv_7x1_1x7": ["1", "2", "3"],  # nn.Sequential(ReLU, Conv2d, Conv2d, BatchNorm2d), no class with an `op`
}
"""Layers with weights in the authors' cnn/operations.py."""


@pytest.mark.parametrize("imagenet", [False, True])
@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_network_has_the_authors_names(name: str, imagenet: bool) -> None:
    architecture = getattr(ag.architectures, name)
    space = ag.spaces.darts_imagenet if imagenet else ag.spaces.darts_cifar
    network = ag.derive(space(4, 3, 5, auxiliary=True, stage="retrain"), architecture)
    layers = {entry.rpartition(".")[0] for entry in official.network_to_state_dict(network)}
    for i, label in enumerate(("normal", "reduce", "reduce")):
        expected, entry = set(), 0
        decision = architecture.choices[label]
        for node in sorted(key for key in decision if key != "concat"):
            for operation, source in decision[node]:
                halves = label == "reduce" and source < 2
                skip = ["conv_1", "conv_2", "bn"] if halves else []
                expected |= {f"{entry}.{layer}" for layer in LAYERS.get(operation, skip)}
                entry += 1
        assert {layer.split("_ops.")[1] for layer in layers if layer.startswith(f"cells.{i}._ops.")} == expected


@pytest.mark.parametrize("imagenet", [False, True])
@pytest.mark.parametrize(("name", "auxiliary"), [*((name, True) for name in PUBLISHED), ("DARTS_V2", False)])
def test_a_training_network_goes_out_and_in_bit_for_bit(name: str, auxiliary: bool, imagenet: bool) -> None:
    architecture = getattr(ag.architectures, name)
    space = ag.spaces.darts_imagenet if imagenet else ag.spaces.darts_cifar
    network = ag.derive(space(4, 3, 5, auxiliary=auxiliary, stage="retrain"), architecture).double()
    x = images(64 if imagenet else 32).double()
    network.train()(x)
    state = official.network_to_state_dict(network)
    genotype = architecture if imagenet else architecture.to_genotype()
    back = official.network_from_state_dict(
        state, genotype, channels=4, cells=3, num_classes=5, auxiliary=auxiliary, imagenet=imagenet
    )
    assert {p.dtype for p in back.parameters()} == {torch.float64}
    assert same_state(back, network.state_dict())
    assert torch.equal(back.eval()(x), network.eval()(x))


def test_a_network_that_is_not_derived_has_no_training_weights() -> None:
    with pytest.raises(SpaceError, match="DartsNetwork with open choices"):
        official.network_to_state_dict(ag.spaces.darts_cifar(2, 1, 5))
    with pytest.raises(SpaceError, match="got a Linear"):
        official.network_to_state_dict(nn.Linear(1, 1))


def test_parts_that_the_authors_cells_hold_and_do_not_use_are_left_out() -> None:
    # Node 2 of the normal cell, and its input 1, reach no joined node; the authors' module holds them nevertheless.
    node = "('sep_conv_3x3', 0), ('skip_connect', 0)"
    normal = f"[('sep_conv_3x3', 0), ('dil_conv_3x3', 1), {node}, {node}, {node}]"
    reduce = f"[('max_pool_3x3', 0), ('max_pool_3x3', 1), {node}, {node}, {node}]"
    text = f"Genotype(normal={normal}, normal_concat=[3, 4, 5], reduce={reduce}, reduce_concat=range(2, 6))"
    network = ag.derive(ag.spaces.darts_cifar(4, 3, 5, stage="retrain"), ag.Architecture.from_genotype(text))
    state = official.network_to_state_dict(network)
    normal_cells = [name for name, cell in network.named_modules() if getattr(cell, "preprocess1", cell) is None]
    assert normal_cells
    for name in normal_cells:
        state[f"{name}._ops.0.op.1.weight"] = torch.randn(4, 1, 3, 3)
        state[f"{name}._ops.1.op.1.weight"] = torch.randn(4, 1, 3, 3)
        state[f"{name}.preprocess1.op.1.weight"] = torch.randn(4, 12, 1, 1)
    sizes = {"channels": 4, "cells": 3, "num_classes": 5, "auxiliary": False}
    back = official.network_from_state_dict(state, text, **sizes)
    assert torch.equal(back.eval()(images(32)), network.eval()(images(32)))
    state[f"{normal_cells[0]}._ops.8.op.1.weight"] = torch.randn(4, 1, 3, 3)  # the genotype has no ninth operation
    with pytest.raises(ArchitectureError, match=r"it has unknown .*operations\.8\."):
        official.network_from_state_dict(state, text, **sizes)


def test_the_oldest_checkpoints_lack_the_count_of_batches() -> None:
    state, normal, reduce = official.to_official(search_network())
    old = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    back = official.supernet_from_state_dict(old, normal, reduce, **SIZES)
    assert torch.equal(back.eval()(images()), search_network().eval()(images()))


def test_missing_unknown_and_unequal_names_are_listed_with_what_to_check() -> None:
    state, normal, reduce = official.to_official(search_network())
    del state["classifier.bias"]
    state["cells.9.extra"] = torch.zeros(1)
    state["stem.0.weight"] = torch.zeros(1)
    with pytest.raises(ArchitectureError) as caught:
        official.supernet_from_state_dict(state, normal, reduce, **SIZES)
    message = str(caught.value)
    for part in (
        "it lacks classifier.bias",
        "it has unknown cells.9.extra",
        "shapes differ in stem.0.weight",
        "channels",
    ):
        assert part in message


@pytest.mark.parametrize("change", [{"channels": 4}, {"cells": 4}, {"num_classes": 6}])
def test_other_sizes_are_an_error(change: dict[str, int]) -> None:
    state, normal, reduce = official.to_official(search_network())
    with pytest.raises(ArchitectureError, match="does not fit this network"):
        official.supernet_from_state_dict(state, normal, reduce, **{**SIZES, **change})


def test_another_genotype_is_an_error() -> None:
    network = ag.derive(ag.spaces.darts_cifar(4, 3, 5, stage="retrain"), ag.architectures.DARTS_V2)
    with pytest.raises(ArchitectureError, match=r"does not fit this network.*genotype"):
        official.network_from_state_dict(
            official.network_to_state_dict(network),
            ag.architectures.DARTS_V1,
            channels=4,
            cells=3,
            num_classes=5,
            auxiliary=False,
        )


def test_alphas_of_another_shape_are_an_error() -> None:
    state, normal, reduce = official.to_official(search_network())
    with pytest.raises(ArchitectureError, match=r"alphas_reduce must be 14x8, but it is \(14, 7\)"):
        official.supernet_from_state_dict(state, normal, reduce[:, :7], **SIZES)


def test_a_supernet_of_another_space_has_no_official_form() -> None:
    with pytest.raises(SpaceError, match="NasBench201Network"):
        official.to_official(ag.Supernet(ag.spaces.nasbench201(4, 1)))


def test_a_network_of_reductions_only_goes_round() -> None:
    # of two cells both are reductions: no row of the normal table is used
    supernet = ag.Supernet(ag.spaces.darts_cifar(2, 2, 5))
    state, normal, reduce = official.to_official(supernet)
    assert normal.shape == (0, 8)
    back = official.supernet_from_state_dict(state, normal, reduce, channels=2, cells=2, num_classes=5)
    assert torch.equal(back.eval()(images()), supernet.eval()(images()))
