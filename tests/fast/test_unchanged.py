"""What the fast path keeps of a cell is kept only as long as the cell stays as it is."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import archgrad as ag
from archgrad.cell import Cell
from archgrad.fast.memory_format import Code
from archgrad.fast.unchanged import Parts, StructureCache, Unchanged
from archgrad.operations import DilConv, PoolBN, SepConv

pytestmark = pytest.mark.usefixtures("backend")


class OneCell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = Cell(
            2,
            {
                "sep": lambda source, node: SepConv(4, 4, 3, 1, affine=False),
                "dil": lambda source, node: DilConv(4, 4, 3, 1, affine=False),
                "pool": lambda source, node: PoolBN("max", 4, 1),
                "skip": lambda source, node: nn.Identity(),
            },
            label="c",
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.cell([x, x.tanh()])


def first(net: nn.Module, kind: type[nn.Module]) -> nn.Module:
    return next(m for m in net.modules() if isinstance(m, kind))


def replace_convolution(net: nn.Module) -> None:
    new = nn.Conv2d(4, 4, 1, bias=False).double()
    nn.init.constant_(new.weight, 0.3)
    first(net, SepConv).op[2] = new


def replace_operation(net: nn.Module) -> None:
    candidates = first(net, Cell).edges[1].candidates
    place = next(k for k, m in enumerate(candidates) if isinstance(m, DilConv))
    candidates[place] = nn.Conv2d(4, 4, 3, padding=1).double()
    for parameter in candidates[place].parameters():
        nn.init.constant_(parameter, 0.1)


def dilate(net: nn.Module) -> None:
    convolution = first(net, DilConv).op[1]
    convolution.dilation, convolution.padding = (1, 1), (1, 1)


def hook(net: nn.Module) -> None:
    first(net, SepConv).op[1].register_forward_hook(lambda module, inputs, output: 2 * output)


def evaluate_norm(net: nn.Module) -> None:
    first(net, SepConv).op[3].eval()


def other_eps(net: nn.Module) -> None:
    first(net, DilConv).op[3].eps = 0.5


def other_pool(net: nn.Module) -> None:
    first(net, PoolBN)[0].kernel_size, first(net, PoolBN)[0].padding = 5, 2


def other_weight(net: nn.Module) -> None:
    first(net, SepConv).op[1].weight = nn.Parameter(torch.full((4, 1, 3, 3), 0.2, dtype=torch.float64))


def result(net: ag.Supernet, x: Tensor) -> list[Tensor]:
    y = net(x)
    gradients = torch.autograd.grad(y.square().mean(), list(net.alphas.values()), allow_unused=True)
    return [y.detach(), *(torch.zeros(()) if g is None else g for g in gradients), *net.network.buffers()]


@pytest.mark.parametrize(
    "change",
    [
        replace_convolution,
        replace_operation,
        dilate,
        hook,
        evaluate_norm,
        other_eps,
        other_pool,
        other_weight,
        lambda net: net.eval(),
    ],
)
def test_a_change_after_the_first_pass_is_seen(change: Callable[[nn.Module], object]) -> None:
    torch.manual_seed(0)
    space = OneCell().double()
    x = torch.randn(3, 4, 6, 6, dtype=torch.float64)
    nets = [ag.Supernet(space, fast=fast) for fast in (False, True)]
    before = [result(net, x)[0] for net in nets]
    for net in nets:
        change(net)
    after = [result(net, x) for net in nets]
    assert not torch.allclose(after[0][0], before[0])
    for a, b in zip(*after, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-9)


def test_batches_of_two_shapes_go_in_turn() -> None:
    torch.manual_seed(0)
    nets = [ag.Supernet(ag.spaces.darts_cifar(2, 2, nodes=2).double(), fast=fast) for fast in (False, True)]
    nets[1].load_state_dict(nets[0].state_dict())
    for samples, size in ((3, 8), (2, 8), (3, 8), (2, 6), (3, 8)):
        x = torch.randn(samples, 3, size, size, dtype=torch.float64)
        for a, b in zip(*(result(net, x) for net in nets), strict=True):
            torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-9)


def test_a_copy_computes_with_its_own_weights() -> None:
    torch.manual_seed(0)
    net = ag.Supernet(ag.spaces.darts_cifar(2, 2))
    x = torch.randn(2, 3, 8, 8)
    before = net(x)
    twin = copy.deepcopy(net)
    torch.testing.assert_close(twin(x), before)
    for weight in twin.weights.values():
        weight.data.mul_(0.5)
    assert not torch.allclose(twin(x), before)
    torch.testing.assert_close(net(x), before)
    kept = StructureCache()
    kept.find("kind", list)
    assert (len(kept), len(copy.deepcopy(kept)), len(pickle.loads(pickle.dumps(kept)))) == (1, 0, 0)


def test_what_is_kept_is_bounded() -> None:
    kept = StructureCache()
    found = [kept.find(kind, lambda: kind) for kind in range(24)]  # noqa: B023 (it is called at once)
    assert found == list(range(24))
    assert len(kept) == 16
    assert kept.find(23, lambda: -1) == 23
    assert kept.find(0, lambda: -1) == -1


def test_values_are_no_change() -> None:
    net = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))
    unchanged = Unchanged(net)
    net(torch.randn(2, 1, 3, 3))
    net[0].weight.data.add_(1)
    assert unchanged.holds()
    handle = net[0].register_forward_pre_hook(lambda *_: None)
    assert not unchanged.holds()
    handle.remove()
    assert unchanged.holds()


def test_a_part_that_moves_to_another_place_is_seen() -> None:
    net = nn.Sequential(nn.Sequential(nn.ReLU()), nn.Sequential())
    parts = Parts(net)
    net[1].append(net[0].pop(0))
    assert not parts.hold()


def test_a_part_that_a_leaf_gets_later_is_seen() -> None:
    net = nn.Sequential(nn.ReLU())
    parts, unchanged = Parts(net), Unchanged(net)
    net[0].add_module("inner", nn.ReLU())
    assert not parts.hold()
    assert not unchanged.holds()


def test_a_pool_that_returns_indices_is_seen() -> None:
    net = nn.Sequential(nn.MaxPool2d(3))
    unchanged = Unchanged(net)
    net[0].return_indices = True
    assert not unchanged.holds()


def test_a_pickled_reading_of_the_code_looks_at_its_own_network() -> None:
    code = Code(nn.Sequential(nn.Conv2d(8, 8, 3)))
    assert code.accepts_channels_last()
    twin = pickle.loads(pickle.dumps(code))
    assert twin.accepts_channels_last()
    twin._network[0].register_forward_hook(print)
    assert not twin.accepts_channels_last()
    assert code.accepts_channels_last()
