"""The fast path against the plain one, its oracle."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call

import archgrad as ag
from archgrad.cell import Cell
from archgrad.fast import pointwise
from archgrad.operations import SepConv, Zero
from archgrad.relaxation import Gumbel, Softmax
from archgrad.schedules import Progress
from archgrad.spaces import darts_cifar, nasbench201

pytestmark = pytest.mark.usefixtures("backend")


def pair(space: nn.Module, relaxation=Softmax, *, dtype=torch.float64) -> tuple[ag.Supernet, ag.Supernet]:
    """The same supernet, plain and fast, with alphas far from equal."""
    space = space.to(dtype)
    plain = ag.Supernet(space, relaxation(), seed=3, fast=False)
    fast = ag.Supernet(space, relaxation(), seed=3, fast=True)
    plain.progress = fast.progress = Progress(0, 50)
    for a, b in zip(plain.alphas.values(), fast.alphas.values(), strict=True):
        nn.init.normal_(a)
        b.data.copy_(a.data)
    return plain, fast


def gradients(net: ag.Supernet, x: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, dict]:
    loss = F.cross_entropy(net(x), targets)
    parameters = {**net.weights, **{f"alphas.{k}": v for k, v in net.alphas.items()}}
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    # None and zeros differ: with zeros, an optimizer's decay and momentum still move a parameter.
    every = [torch.empty(0) if g is None else g for g in found]
    return loss.detach(), dict(zip(parameters, every, strict=True))


def assert_same(plain: ag.Supernet, fast: ag.Supernet, x: torch.Tensor, *, tolerance: float = 1e-10) -> None:
    targets = torch.arange(len(x)) % 10
    loss, expected = gradients(plain, x, targets)
    fast_loss, found = gradients(fast, x, targets)
    torch.testing.assert_close(fast_loss, loss, rtol=tolerance, atol=tolerance)
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=tolerance, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}"
        )
    for (name, a), b in zip(plain.state_dict().items(), fast.state_dict().values(), strict=True):
        torch.testing.assert_close(b, a, rtol=tolerance, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}")


@given(
    cells=st.integers(1, 3),
    channels=st.sampled_from([2, 4]),
    nodes=st.integers(1, 3),
    height=st.integers(5, 8),
    width=st.integers(5, 8),
    training=st.booleans(),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=6)
def test_darts_gradients_and_statistics_equal_the_plain_path_s(cells, channels, nodes, height, width, training, seed):
    torch.manual_seed(seed)
    plain, fast = pair(darts_cifar(channels, cells, nodes=nodes))
    x = torch.randn(3, 3, height, width, dtype=torch.float64)
    assert_same(plain, fast, x)  # moves the running statistics from where they start
    plain.train(training), fast.train(training)
    assert_same(plain, fast, x)


@pytest.mark.parametrize("training", [True, False])
def test_nasbench201_gradients_and_statistics_equal_the_plain_path_s(training):
    torch.manual_seed(0)
    plain, fast = pair(nasbench201(4, 1))
    plain.train(training), fast.train(training)
    assert_same(plain, fast, torch.randn(3, 3, 8, 7, dtype=torch.float64))


@pytest.mark.parametrize("constant_gradient", [True, False])
def test_under_gumbel_only_the_drawn_candidates_run(constant_gradient):
    torch.manual_seed(0)
    plain, fast = pair(darts_cifar(4, 3, nodes=2), lambda: Gumbel(constant_gradient=constant_gradient))
    for _ in range(3):
        assert_same(plain, fast, torch.randn(3, 3, 8, 8, dtype=torch.float64))
    counts = [m.num_batches_tracked for m in fast.network.cells[0].graph.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {int(count) for count in counts} > {0}


def test_a_node_that_only_none_enters_is_zero():
    torch.manual_seed(0)
    cell = Cell(1, {"none": lambda source, node: Zero(1), "sep": lambda source, node: SepConv(2, 2, 3, 1)}, label="c")
    plain, fast = pair(_Wrap(cell), Gumbel)
    for net in (plain, fast):
        for row in net.alphas.values():
            row.data.copy_(torch.tensor([50.0, 0.0]))
    x = torch.randn(2, 2, 4, 4, dtype=torch.float64)
    assert not fast(x).detach().any()
    torch.testing.assert_close(fast(x), plain(x))


class _Wrap(nn.Module):
    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cell([x, 2 * x])


def test_an_instance_on_several_edges_runs_and_moves_its_statistics_on_each():
    torch.manual_seed(0)
    once = SepConv(2, 2, 3, 1, affine=False)
    space = _Wrap(Cell(3, {"sep": lambda source, node: once, "skip": lambda source, node: nn.Identity()}, label="c"))
    plain, fast = pair(space)
    x = torch.randn(2, 2, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(fast(x), plain(x), rtol=1e-10, atol=1e-10)
    for (name, a), b in zip(plain.state_dict().items(), fast.state_dict().values(), strict=True):
        if "num_batches" in name:
            assert int(a) > 3, name
        torch.testing.assert_close(b, a, rtol=1e-10, atol=1e-10)


def test_unknown_and_affine_and_hooked_operations_run_as_they_are():
    torch.manual_seed(0)
    calls = []

    def build(source: int, node: int) -> nn.Module:
        return SepConv(2, 2, 3, 1)  # affine

    def own(source: int, node: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.Tanh())

    space = _Wrap(Cell(2, {"sep": build, "own": own, "again": build}, never=(), label="c"))
    plain, fast = pair(space)
    fast.network.cell.edges[0]["sep"].op[2].register_forward_hook(lambda *_: calls.append(1))
    x = torch.randn(2, 2, 5, 4, dtype=torch.float64)
    a, b = plain(x), fast(x)
    torch.testing.assert_close(b, a, rtol=1e-10, atol=1e-10)
    assert calls == [1]
    p, q = (torch.autograd.grad(y.square().sum(), list(n.weights.values())) for y, n in ((a, plain), (b, fast)))
    for u, v in zip(p, q, strict=True):
        torch.testing.assert_close(v, u, rtol=1e-9, atol=1e-10)


def test_other_weights_can_be_put_in_for_one_pass():
    torch.manual_seed(0)
    plain, fast = pair(darts_cifar(2, 2, nodes=2))
    other = {f"network.{name}": torch.randn_like(w) for name, w in plain.weights.items()}
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(
        functional_call(fast, other, (x,)), functional_call(plain, other, (x,)), rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("hvp", ["finite-difference", "exact"])
def test_the_second_order_gradient_equals_the_plain_path_s(hvp):
    torch.manual_seed(0)
    plain, fast = pair(darts_cifar(2, 2, nodes=2))
    batches = [(torch.randn(4, 3, 8, 8, dtype=torch.float64), torch.randint(0, 10, (4,))) for _ in range(2)]
    step = ag.bilevel.Unrolled(hvp=hvp)
    found = []
    for net in (plain, fast):
        before = copy.deepcopy(net.state_dict())
        optimizer = torch.optim.SGD(net.weights.values(), lr=0.025, momentum=0.9)
        found.append(step.alphas_gradient(net, *batches, loss=F.cross_entropy, weights_optimizer=optimizer).gradients)
        for name, value in net.state_dict().items():
            assert torch.equal(value, before[name]), name
    # A finite difference divides rounding errors by its small step.
    tolerance = 1e-10 if hvp == "exact" else 1e-8
    for label, expected in found[0].items():
        torch.testing.assert_close(found[1][label], expected, rtol=tolerance, atol=tolerance)


def test_a_cumulative_running_average_is_kept_as_batch_norm_keeps_it():
    torch.manual_seed(0)
    space = darts_cifar(2, 1, nodes=1)
    for norm in space.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = None
    plain, fast = pair(space)
    for _ in range(3):
        assert_same(plain, fast, torch.randn(3, 3, 6, 6, dtype=torch.float64))


def test_single_precision_agrees_to_single_precision():
    torch.manual_seed(0)
    plain, fast = pair(darts_cifar(4, 3, nodes=2), dtype=torch.float32)
    assert_same(plain, fast, torch.randn(8, 3, 8, 8), tolerance=2e-3)


def test_a_supernet_in_the_fast_way_can_be_copied():
    torch.manual_seed(0)
    _, fast = pair(darts_cifar(2, 2, nodes=2))
    twin = copy.deepcopy(fast)
    for weight in fast.weights.values():
        weight.data.zero_()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    assert not torch.equal(twin(x), fast(x))


@pytest.mark.parametrize("limit", [0, 1000], ids=["kept", "folded"])
def test_under_bf16_autocast_the_fast_path_is_no_further_from_the_truth_than_the_plain_one(limit, monkeypatch):
    monkeypatch.setattr(pointwise, "FOLDED_UP_TO", {False: limit, True: limit})
    torch.manual_seed(0)
    plain, fast = pair(darts_cifar(4, 3, nodes=2), dtype=torch.float32)
    x, targets = torch.randn(8, 3, 8, 8), torch.arange(8)
    truth = torch.cat([g.flatten() for g in gradients(plain, x, targets)[1].values()])
    errors = []
    for net in (plain, fast):
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(net(x), targets)
        parameters = [*net.weights.values(), *net.alphas.values()]
        found = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])
        errors.append(float((found - truth).norm() / truth.norm()))
    assert errors[1] < 1.5 * errors[0]
