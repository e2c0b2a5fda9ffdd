"""Derived networks on the fast path against the plain one."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import archgrad as ag
from archgrad.derived_cell import DerivedCell
from archgrad.fast import accelerate, accelerated
from archgrad.fast.alone import FastOperation
from archgrad.fast.depthwise import FastDepthwiseConv2d
from archgrad.operations import DilConv, DropPath, FactorizedReduce, ReLUConvBN, SepConv

pytestmark = pytest.mark.usefixtures("backend")

GENOTYPES = ("DARTS_V2", "AmoebaNet", "NASNet")


def pair(genotype: str) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    space = ag.spaces.darts_cifar(4, 3, num_classes=5, stage="retrain")
    plain = ag.derive(space, getattr(ag.architectures, genotype)).double()
    fast = copy.deepcopy(plain)
    accelerate(fast)
    return plain, fast


def outcome(network: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    network.zero_grad()
    logits = network(x)
    logits = logits[0] if isinstance(logits, tuple) else logits
    F.cross_entropy(logits, torch.arange(len(x)) % 5).backward()
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    return {"logits": logits.detach(), **gradients, **dict(network.named_buffers())}


@pytest.mark.parametrize("genotype", GENOTYPES)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_outputs_gradients_and_statistics_equal_the_plain_path_s(genotype, training):
    plain, fast = pair(genotype)
    x = torch.randn(4, 3, 9, 8, dtype=torch.float64)
    for network in (plain, fast):
        network.train(training)
        for part in network.modules():
            if isinstance(part, DropPath):
                part.p = 0.3
    expected, found = outcome(plain, x), outcome(fast, x)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-10, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(
    "build",
    [
        lambda affine: ReLUConvBN(6, 4, 1, affine=affine),
        lambda affine: ReLUConvBN(6, 4, 3, padding=1, affine=affine),
        lambda affine: FactorizedReduce(6, 4, affine=affine),
        lambda affine: SepConv(6, 4, 3, 2, affine=affine),
        lambda affine: SepConv(6, 6, 5, 1, affine=affine),
        lambda affine: DilConv(6, 6, 5, 2, affine=affine),
    ],
)
def test_an_operation_by_itself_equals_the_plain_one(build, affine):
    torch.manual_seed(0)
    plain = nn.Sequential(build(affine), nn.Flatten(), nn.LazyLinear(5)).double()
    x = torch.randn(4, 6, 7, 8, dtype=torch.float64)
    plain(x)
    fast = copy.deepcopy(plain)
    accelerate(fast)
    expected, found = outcome(plain, x), outcome(fast, x)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-10)


def test_dense_convolutions_are_turned_where_the_kernels_know_them():
    given = {"known": (3, 1, 1), "padded beyond its reach": (1, 1, 1), "strided": (3, 2, 1)}
    network = nn.Sequential(*(ReLUConvBN(4, 4, *settings) for settings in given.values()))
    accelerate(network, "native")
    assert [isinstance(part, FastOperation) for part in network] == [True, False, False]


def test_a_hook_on_a_part_still_sees_it_run():
    operation = SepConv(4, 4, 3, 1)
    accelerate(operation)
    seen = []
    operation.op[3].register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    operation(torch.randn(2, 4, 5, 5))
    assert seen == [(2, 4, 5, 5)]


def test_accelerated_leaves_the_network_as_it_was():
    torch.manual_seed(0)
    network = ag.derive(ag.spaces.darts_cifar(4, 3, stage="retrain"), ag.architectures.DARTS_V2)
    before = kinds_and_strides(network)
    with accelerated(network, "torch"):
        kinds = {type(part) for part in network.modules()}
        assert FastDepthwiseConv2d in kinds
        assert any(issubclass(kind, FastOperation) for kind in kinds)
        assert all(part.evaluator is not None for part in network.modules() if isinstance(part, DerivedCell))
    assert kinds_and_strides(network) == before
    assert all(part.evaluator is None for part in network.modules() if isinstance(part, DerivedCell))


def test_accelerated_ends_with_an_error_too():
    network = ag.derive(ag.spaces.darts_cifar(4, 3, stage="retrain"), ag.architectures.DARTS_V2)
    before = kinds_and_strides(network)
    with pytest.raises(KeyError), accelerated(network):
        raise KeyError
    assert kinds_and_strides(network) == before


def kinds_and_strides(network: nn.Module) -> list[tuple[type, dict[str, tuple[int, ...]]]]:
    return [
        (type(part), {name: p.stride() for name, p in part.named_parameters(recurse=False)})
        for part in network.modules()
    ]
